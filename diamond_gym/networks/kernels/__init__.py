"""Kernels of our own for the convolutions of a dream on the CPU, where torch's are not the fastest there can be."""

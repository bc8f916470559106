// 3x3 convolutions in float32 with their gradients, as operators of torch.
#pragma once

#include <algorithm>

#include "tensors.h"

namespace {

// sums (C, O) += a^T b of one position: the outer products of the tiles' transforms a (tiles, C) and b (tiles, O).
template <int R, int N>
void outer_products(int tiles, const float* a, int channels, const float* b, int out_channels, float* sums) {
    Vector s[R][N];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) s[r][n] = load(sums + size_t(r) * out_channels + n * LANES);
    for (int t = 0; t < tiles; ++t, a += channels, b += out_channels) {
        Vector v[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) v[n] = load(b + n * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) s[r][n] += a[r] * v[n];
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) store(sums + size_t(r) * out_channels + n * LANES, s[r][n]);
}

// Adds the part of strip `index` to the gradient of the transformed filters, sums (positions, C, O).
inline void add_filter_gradient(const Source<float>& x, const Source<float>& gradient, const Strips& strips, int index,
                                float* sums) {
    constexpr int M = 4, TILE = M + 2, POSITIONS = TILE * TILE, R = 4;
    static thread_local Scratch<float> x_memory, gradient_memory;
    const int tiles = (strips.last(index) - strips.first(index)) * strips.tiles;
    const int channels = x.images.channels(), out_channels = gradient.images.channels();
    const size_t plane = size_t(tiles) * channels + PAD, gradient_plane = size_t(tiles) * out_channels + PAD;
    float* const a = x_memory.take(POSITIONS * plane);
    float* const b = gradient_memory.take(POSITIONS * gradient_plane);
    transform_tiles<Float32, TILE, M, TILE>(x, strips, index, 1, plane, a, Winograd<M>::input);
    transform_tiles<Float32, M, M, TILE>(gradient, strips, index, 0, gradient_plane, b, Winograd<M>::gradient);
    for (int p = 0; p < POSITIONS; ++p)
        for_blocks(out_channels, 0, [&](auto count, int o, size_t) {
            for (int c = 0; c < channels; c += R)
                outer_products<R, decltype(count)::value>(tiles, a + p * plane + c, channels, b + p * gradient_plane + o,
                                                          out_channels,
                                                          sums + (size_t(p) * channels + c) * out_channels + o);
        });
}

// G^T u G of the gradient of the transformed filters, into that of the filters.
inline void unpack(const float* sums, const Filters& filters) {
    constexpr int POSITIONS = 36;
    const size_t plane = size_t(filters.channels) * filters.out_channels;
    for (int i = 0; i < filters.channels; ++i)
        for (int o = 0; o < filters.out_channels; o += LANES) {
            Vector u[POSITIONS], g[9];
            for (int p = 0; p < POSITIONS; ++p) u[p] = load(sums + p * plane + size_t(i) * filters.out_channels + o);
            twice<6, 3>(u, g, Winograd<4>::filter_gradient);
            for (int k = 0; k < 9; ++k)
                for (int lane = 0; lane < LANES; ++lane) *filters.at(o + lane, i, k) = g[k][lane];
        }
}

Tensor convolved(const Tensor& x, const Filters& filters, const float* bias) {
    static thread_local Scratch<float> memory;
    STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float && x.size(1) == filters.channels,
                    "images are float32, of as many channels as the filters have");
    float* const packed = memory.take(size_t(36) * filters.channels * filters.out_channels);
    pack<Float32>(filters, packed);
    const Tensor out = new_images(x, filters.out_channels, 1);
    const Convolution<float> job{
        plain<float>(x), packed, bias, nullptr, static_cast<float*>(out.mutable_data_ptr()), filters.out_channels};
    convolution<Float32>(job, int(x.size(0)), int(torch::stable::get_num_threads()));
    return out;
}

// See the schema of `conv3x3` below.
Tensor conv3x3_of(Tensor images, Tensor weight, Tensor bias) {
    STD_TORCH_CHECK(bias.scalar_type() == ScalarType::Float && bias.is_contiguous() && bias.numel() == weight.size(0),
                    "a bias is float32, of as many numbers as there are outputs");
    return convolved(channels_last(images), filters_of(weight, false), numbers<float>(bias));
}

// See the schema of `conv3x3_input_gradient` below.
Tensor input_gradient_of(Tensor gradient, Tensor weight) {
    return convolved(channels_last(gradient), filters_of(weight, true), nullptr);
}

// See the schema of `conv3x3_weight_gradient` below. Every thread has strips and sums of its own, always the same ones, so
// that the result is the same bit for bit.
Tensor weight_gradient_of(Tensor images, Tensor out_gradient, Tensor weight) {
    static thread_local Scratch<float> memory;
    const Tensor x = channels_last(images), gradient = channels_last(out_gradient);
    const Tensor out = torch::stable::empty_like(weight);
    const Filters filters = filters_of(out, false);
    STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float && gradient.scalar_type() == ScalarType::Float &&
                        x.size(0) == gradient.size(0) && x.size(2) == gradient.size(2) &&
                        x.size(3) == gradient.size(3) && x.size(1) == filters.channels &&
                        gradient.size(1) == filters.out_channels,
                    "images and the gradient of what came of them are float32, of one number and size");
    const int threads = int(torch::stable::get_num_threads());
    const Strips strips(int(x.size(2)), int(x.size(3)), int(x.size(0)), 4, filters.channels + filters.out_channels,
                        threads);
    const size_t size = size_t(36) * filters.channels * filters.out_channels;
    float* const sums = memory.take(threads * size);
    const Source<float> x_source = plain<float>(x), gradient_source = plain<float>(gradient);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int t = 0; t < threads; ++t) {
        std::fill(sums + t * size, sums + (t + 1) * size, 0.0f);
        for (int i = strips.count() * t / threads; i < strips.count() * (t + 1) / threads; ++i)
            add_filter_gradient(x_source, gradient_source, strips, i, sums + t * size);
    }
    for (int t = 1; t < threads; ++t)
        for (size_t i = 0; i < size; ++i) sums[i] += sums[t * size + i];
    unpack(sums, filters);
    return out;
}

}  // namespace

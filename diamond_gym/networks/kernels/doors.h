// Where images enter and leave a network, and where feature maps are halved.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "amx.h"

namespace {

// Frames, float32 (images, channels, height, width), and the feature maps of their patches, `side` pixels a side.
struct Frames {
    int images, channels, height, width, side;
    int rows() const { return (height + side - 1) / side; }
    int columns() const { return (width + side - 1) / side; }
    int patch() const { return channels * side * side; }  // numbers in a patch
    // Calls f with the place of each of a patch's numbers in the frame, and in the patch; of those within the frame.
    template <typename F>
    void for_patch(int image, int row, int column, F f) const {
        for (int c = 0, k = 0; c < channels; ++c)
            for (int y = row * side; y < (row + 1) * side; ++y)
                for (int x = column * side; x < (column + 1) * side; ++x, ++k)
                    if (y < height && x < width) f((size_t(image * channels + c) * height + y) * width + x, k);
    }
};

// The patches of frames as a feature map of `wide` channels, with zeros beyond the frame and beyond a patch's numbers.
template <typename E>
void to_patches(const Frames& f, const float* frames, int wide, typename E::Number* out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int row = 0; row < f.images * f.rows(); ++row) {
        static thread_local Scratch<float> memory;
        float* const patch = memory.take(wide);
        std::fill(patch, patch + wide, 0.0f);
        for (int column = 0; column < f.columns(); ++column) {
            if ((row % f.rows() + 1) * f.side > f.height || (column + 1) * f.side > f.width)
                std::fill(patch, patch + wide, 0.0f);
            f.for_patch(row / f.rows(), row % f.rows(), column, [&](size_t from, int k) { patch[k] = frames[from]; });
            typename E::Number* const to = out + (size_t(row) * f.columns() + column) * wide;
            for (int c = 0; c < wide; c += LANES) E::write(to + c, load(patch + c));
        }
    }
}

// The way back.
template <typename E>
void from_patches(const Frames& f, const typename E::Number* patches, int wide, float* frames, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int row = 0; row < f.images * f.rows(); ++row) {
        static thread_local Scratch<float> memory;
        float* const patch = memory.take(wide);
        for (int column = 0; column < f.columns(); ++column) {
            const typename E::Number* const from = patches + (size_t(row) * f.columns() + column) * wide;
            for (int c = 0; c < wide; c += LANES) store(patch + c, E::read(from + c));
            f.for_patch(row / f.rows(), row % f.rows(), column, [&](size_t to, int k) { frames[to] = patch[k]; });
        }
    }
}

// Frames on 8-bit levels, and with the last ones' pixels where no channel changes by `threshold` levels or more; 0: all
// pixels are new. `nearest` as in `diamond_gym.frames.quantise`, whose numbers these are to the last bit.
inline void on_levels(const Frames& f, const float* x, const float* last, bool nearest, float threshold, float* out,
                      int threads) {
    const int area = f.height * f.width;
    const float up = nearest ? 0.5f : 0.0f;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int i = 0; i < f.images; ++i) {
        const size_t first = size_t(i) * f.channels * area;
        for (size_t at = first; at < first + size_t(f.channels) * area; ++at) {
            const float part = (std::min(std::max(x[at], -1.0f), 1.0f) + 1) / 2;
            // The product is rounded before the sum, which a fused operation would not do.
            const float level = float(255.0 * double(part)) + up;
            out[at] = float(uint8_t(int(level))) / 255 * 2 - 1;
        }
        if (threshold == 0) continue;
        for (size_t at = first; at < first + area; ++at) {
            float change = 0;
            for (int c = 0; c < f.channels; ++c) {
                const size_t k = at + size_t(c) * area;
                change = std::max(change, std::abs(out[k] - last[k]));
            }
            const bool still = change * 127.5f < threshold;
            for (int c = 0; c < f.channels; ++c) {
                const size_t k = at + size_t(c) * area;
                out[k] = still ? last[k] : out[k];
            }
        }
    }
}

// A 3x3 convolution with padding of every second pixel in both directions. The weights are those of a pointwise
// convolution of the nine neighbours, row by row, side by side.
template <typename E, typename T = typename E::Number>
void halve(const T* x, int images, int height, int width, int channels, const T* weights, const float* bias, T* out,
           int out_channels, int threads) {
    const int rows = (height + 1) / 2, columns = (width + 1) / 2, wide = 9 * channels;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int row = 0; row < images * rows; ++row) {
        static thread_local Scratch<T> memory;
        T* const near = memory.take(size_t(columns) * wide);
        for (int column = 0; column < columns; ++column)
            for (int k = 0; k < 9; ++k) {
                const int i = row / rows, a = 2 * (row % rows) + k / 3 - 1, b = 2 * column + k % 3 - 1;
                T* const to = near + (size_t(column) * 9 + k) * channels;
                if (a < 0 || a >= height || b < 0 || b >= width)
                    std::memset(to, 0, channels * sizeof(T));
                else
                    std::memcpy(to, x + (size_t(i * height + a) * width + b) * channels, channels * sizeof(T));
            }
        pointwise<E>({near, nullptr, wide, 0}, 0, columns, weights, bias, nullptr,
                     out + size_t(row) * columns * out_channels, out_channels);
    }
}

}  // namespace

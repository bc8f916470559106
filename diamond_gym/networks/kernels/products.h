// Matrix products in which a packed block of weights meets some rows at a time, all sums in registers.
#pragma once

#include <algorithm>
#include <type_traits>

#include "vectors.h"

namespace {

// Channels of an image that lie in two tensors, as if they had been concatenated.
template <typename T>
struct Pair {
    const T* first;
    const T* second;
    int first_channels, second_channels;
    int channels() const { return first_channels + second_channels; }
};

// sums[r][n] += R rows of a (row stride lda) times a packed block of weights of N vectors of output channels.
template <typename E, int R, int N>
inline void multiply(const typename E::Number* a, size_t lda, int channels, const typename E::Number* weights,
                     Vector (&sums)[R][N]) {
    for (int k = 0; k < channels; k += E::DEPTH, weights += N * LANES * E::DEPTH) {
        typename E::Weights w[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) w[n] = E::weights(weights + n * LANES * E::DEPTH);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) sums[r][n] = E::add_product(sums[r][n], a + r * lda + k, w[n]);
    }
}

// out (rows, N vectors, float32) = a (rows, channels) times weights.
template <typename E, int R, int N>
void product_rows(const typename E::Number* a, size_t lda, int channels, const typename E::Number* weights,
                  float* out) {
    Vector sums[R][N];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) sums[r][n] = Vector{};
    multiply<E, R, N>(a, lda, channels, weights, sums);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) store(out + (r * N + n) * LANES, sums[r][n]);
}

template <typename E, int R, int N>
void product_rest(int rows, const typename E::Number* a, size_t lda, int channels,
                  const typename E::Number* weights, float* out) {
    if constexpr (R > 0) {
        if (rows == R)
            product_rows<E, R, N>(a, lda, channels, weights, out);
        else
            product_rest<E, R - 1, N>(rows, a, lda, channels, weights, out);
    }
}

template <typename E, int N>
void product(int rows, const typename E::Number* a, size_t lda, int channels, const typename E::Number* weights,
             float* out) {
    int r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        product_rows<E, ROWS, N>(a + r * lda, lda, channels, weights, out + r * N * LANES);
    product_rest<E, ROWS - 1, N>(rows - r, a + r * lda, lda, channels, weights, out + r * N * LANES);
}

// The pointwise convolution of pixels [begin, end) of a pair: out = weights * x + bias + residual, this if there is one,
// laid out like out. The weights come in blocks of output channels, each with those of the first tensor and then of the
// second.
template <typename E, int N>
void pointwise_block(const Pair<typename E::Number>& x, size_t begin, size_t end, const typename E::Number* weights,
                     const float* bias, const typename E::Number* residual, typename E::Number* out, int out_channels) {
    const auto some = [&](size_t p, auto count) {
        constexpr int R = decltype(count)::value;
        Vector sums[R][N];
        for (int r = 0; r < R; ++r)
            for (int n = 0; n < N; ++n) {
                sums[r][n] = load(bias + n * LANES);
                if (residual) sums[r][n] += E::read(residual + (p + r) * out_channels + n * LANES);
            }
        multiply<E, R, N>(x.first + p * x.first_channels, x.first_channels, x.first_channels, weights, sums);
        if (x.second)
            multiply<E, R, N>(x.second + p * x.second_channels, x.second_channels, x.second_channels,
                              weights + size_t(x.first_channels) * N * LANES, sums);
        for (int r = 0; r < R; ++r)
            for (int n = 0; n < N; ++n) E::write(out + (p + r) * out_channels + n * LANES, sums[r][n]);
    };
    size_t p = begin;
    for (; p + ROWS <= end; p += ROWS) some(p, std::integral_constant<int, ROWS>{});
    for (; p < end; ++p) some(p, std::integral_constant<int, 1>{});
}

// Calls f with the number of vectors of each block of output channels, its first channel, and where its weights begin.
template <typename F>
void for_blocks(int out_channels, size_t weights_per_channel, F f) {
    for (int c = 0; c < out_channels; c += WIDE * LANES) {
        const size_t weights = c * weights_per_channel;
        switch (std::min(WIDE, (out_channels - c) / LANES)) {
            case 4: f(std::integral_constant<int, 4>{}, c, weights); break;
            case 3: f(std::integral_constant<int, 3>{}, c, weights); break;
            case 2: f(std::integral_constant<int, 2>{}, c, weights); break;
            default: f(std::integral_constant<int, 1>{}, c, weights);
        }
    }
}

// The pointwise convolution of pixels [begin, end) for all output channels.
template <typename E>
void pointwise(const Pair<typename E::Number>& x, size_t begin, size_t end, const typename E::Number* weights,
               const float* bias, const typename E::Number* residual, typename E::Number* out, int out_channels) {
    for_blocks(out_channels, x.channels(), [&](auto count, int c, size_t start) {
        pointwise_block<E, decltype(count)::value>(x, begin, end, weights + start, bias + c,
                                                   residual ? residual + c : nullptr, out + c, out_channels);
    });
}

}  // namespace

// Self-attention over the pixels of feature maps, in heads of eight channels.
//
// The pixels that ask are the lanes of a vector, one after the other is what they look at: nothing is summed across a
// vector, and no matrix of all pairs of pixels is written down but its rows of one vector.
#pragma once

#include <algorithm>

#include "resblock.h"

namespace {

constexpr int HEAD = 8;  // channels

struct Attention {
    const float* norm;  // scales, then shifts, of the group norm before it
    int groups;
    const void *weights_qkv, *weights_out;  // packed
    const float *bias_qkv, *bias_out;
    int channels;
};

// What a head of an image attends to: from queries, keys and values (pixels, 3 * channels) to y (pixels, channels), both
// beginning at the head's own channels.
template <typename E, typename T = typename E::Number>
void attend(const T* qkv, int pixels, int channels, T* y) {
    static thread_local Scratch<float> memory;
    float* const keys = memory.take(size_t(pixels) * (2 * HEAD + LANES));
    float* const values = keys + size_t(pixels) * HEAD;
    float* const scores = values + size_t(pixels) * HEAD;
    const auto read = [](const T* from, float* to) {
        for (int d = 0; d < HEAD; ++d) to[d] = E::number(from[d]);
    };
    for (int j = 0; j < pixels; ++j) {
        read(qkv + size_t(j) * 3 * channels + channels, keys + j * HEAD);
        read(qkv + size_t(j) * 3 * channels + 2 * channels, values + j * HEAD);
    }
    const float factor = 1.44269504f / std::sqrt(float(HEAD));  // log2(e): the softmax is taken to the base of 2
    for (int first = 0; first < pixels; first += LANES) {
        const int count = std::min(LANES, pixels - first);
        float queries[HEAD][LANES] = {}, query[HEAD];
        for (int i = 0; i < count; ++i) {
            read(qkv + size_t(first + i) * 3 * channels, query);
            for (int d = 0; d < HEAD; ++d) queries[d][i] = query[d] * factor;
        }
        Vector q[HEAD], most = all(-3e38f);
        for (int d = 0; d < HEAD; ++d) q[d] = load(queries[d]);
        for (int j = 0; j < pixels; ++j) {
            const float* k = keys + j * HEAD;
            const Vector even = (q[0] * k[0] + q[2] * k[2]) + (q[4] * k[4] + q[6] * k[6]);
            const Vector odd = (q[1] * k[1] + q[3] * k[3]) + (q[5] * k[5] + q[7] * k[7]);
            const Vector score = even + odd;
            store(scores + size_t(j) * LANES, score);
            most = score > most ? score : most;
        }
        Vector sum = {}, out[HEAD] = {};
        for (int j = 0; j < pixels; ++j) {
            Vector t = load(scores + size_t(j) * LANES) - most;
            t = t < -126 ? all(-126) : t;
            const Vector weight = exp2<E::EXP_DEGREE>(t);
            const float* v = values + j * HEAD;
            sum += weight;
#pragma GCC unroll 8
            for (int d = 0; d < HEAD; ++d) out[d] += weight * v[d];
        }
        for (int d = 0; d < HEAD; ++d) store(queries[d], out[d] / sum);
        for (int i = 0; i < count; ++i) {
            float wide[LANES] = {};
            T numbers[LANES];
            for (int d = 0; d < HEAD; ++d) wide[d] = queries[d][i];
            E::write(numbers, load(wide));
            std::memcpy(y + size_t(first + i) * channels, numbers, HEAD * sizeof(T));
        }
    }
}

// norm(x) + out_proj(attention(qkv_proj(norm(x)))) of images; the residual is normed, as in the released networks.
template <typename E, typename T = typename E::Number>
void attention(const Attention& a, const T* x, int images, size_t pixels, T* out, int threads) {
    static thread_local Scratch<float> norm_memory;
    static thread_local Scratch<T> memory;
    const int channels = a.channels, heads = channels / HEAD, runs = threads > 1 ? 2 * threads : 1;
    const size_t size = images * pixels * channels;
    float* const scale = norm_memory.take(2 * size_t(images) * channels);
    float* const shift = scale + size_t(images) * channels;
    T* const normed = memory.take(5 * size);
    T *const y = normed + size, *const qkv = y + size;
    const auto pointwise_of = [&](const T* from, int run, const void* weights, const float* bias, const T* residual, T* to,
                                  int out_channels) {
        const size_t total = images * pixels;
        pointwise<E>({from, nullptr, channels, 0}, total * run / runs, total * (run + 1) / runs,
                     static_cast<const T*>(weights), bias, residual, to, out_channels);
    };
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic)
        for (int i = 0; i < images; ++i) {
            const size_t at = size_t(i) * channels;
            norm_of<E>(Pair<T>{x, nullptr, channels, 0}, i, pixels, a.groups, a.norm, scale + at, shift + at);
            for (size_t p = i * pixels; p < (i + 1) * pixels; ++p)
                for (int c = 0; c < channels; c += LANES)
                    E::write(normed + p * channels + c,
                             E::read(x + p * channels + c) * load(scale + at + c) + load(shift + at + c));
        }
#pragma omp for schedule(dynamic)
        for (int i = 0; i < runs; ++i) pointwise_of(normed, i, a.weights_qkv, a.bias_qkv, nullptr, qkv, 3 * channels);
#pragma omp for schedule(dynamic)
        for (int i = 0; i < images * heads; ++i) {
            const size_t first = i / heads * pixels * channels, head = size_t(i % heads) * HEAD;
            attend<E>(qkv + 3 * first + head, int(pixels), channels, y + first + head);
        }
#pragma omp for schedule(dynamic)
        for (int i = 0; i < runs; ++i) pointwise_of(y, i, a.weights_out, a.bias_out, normed, out, channels);
    }
}

}  // namespace

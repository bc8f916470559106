// Residual blocks of a U-Net.
//
// Group norm, its condition and the SiLU are applied while the inputs are read, bias and residual while the outputs are
// written, so that a feature map is read once and written once per convolution.
#pragma once

#include <algorithm>
#include <cmath>

#include "amx.h"

namespace {

// Sums and sums of squares of each channel over pixels [begin, end) of one tensor, added to sum and square.
template <typename E>
void add_moments(const typename E::Number* x, int channels, size_t begin, size_t end, double* sum, double* square) {
    constexpr int RUN = 64;  // pixels that are summed in float32, in four sums that do not wait for each other
    for (int c = 0; c < channels; c += LANES) {
        for (size_t p = begin; p < end; p += RUN) {
            Vector s[4] = {}, q[4] = {};
            const auto add = [&](int k, size_t pixel) {
                const Vector v = E::read(x + pixel * channels + c);
                s[k] += v;
                q[k] += v * v;
            };
            const size_t stop = std::min(p + RUN, end);
            size_t i = p;
            for (; i + 4 <= stop; i += 4)
#pragma GCC unroll 4
                for (int k = 0; k < 4; ++k) add(k, i + k);
            for (; i < stop; ++i) add(0, i);
            const Vector sums = (s[0] + s[1]) + (s[2] + s[3]), squares = (q[0] + q[1]) + (q[2] + q[3]);
            for (int k = 0; k < LANES; ++k) sum[c + k] += sums[k], square[c + k] += squares[k];
        }
    }
}

// The group norm of an image and its condition as one scale and shift per channel.
template <typename E>
void norm_of(const Pair<typename E::Number>& x, size_t image, size_t pixels, int groups, const float* modulation, float* scale,
             float* shift) {
    constexpr double EPS = 1e-5;
    static thread_local Scratch<double> memory;
    const int channels = x.channels(), each = channels / groups;
    double* sum = memory.take(2 * size_t(channels));
    double* square = sum + channels;
    std::fill(sum, sum + 2 * channels, 0.0);
    const size_t begin = image * pixels, end = begin + pixels;
    add_moments<E>(x.first, x.first_channels, begin, end, sum, square);
    if (x.second)
        add_moments<E>(x.second, x.second_channels, begin, end, sum + x.first_channels, square + x.first_channels);
    for (int g = 0; g < channels; g += each) {
        double mean = 0, spread = 0;
        for (int c = g; c < g + each; ++c) mean += sum[c], spread += square[c];
        mean /= double(pixels) * each;
        spread = std::max(0.0, spread / (double(pixels) * each) - mean * mean);
        const double norm = 1 / std::sqrt(spread + EPS);
        for (int c = g; c < g + each; ++c) {
            scale[c] = float(norm * modulation[c]);
            shift[c] = float(modulation[channels + c] - mean * norm * modulation[c]);
        }
    }
}

// A residual block: conv2(silu(norm2(conv1(silu(norm1(x)))))) + proj(x), where x is first and second side by side.
// Where there is no projection, there is no second either.
struct ResBlock {
    const void *weights1, *weights2, *weights_proj;  // packed; no weights_proj where x has the width of the output
    const float *bias1, *bias2, *bias_proj;
    int first_channels, second_channels, out_channels, groups1, groups2;
    int place1, place2;  // of the norms' scales and shifts in a row of the modulation
};

template <typename E, typename T = typename E::Number>
void resblock(const ResBlock& b, const T* first, const T* second, const float* modulation, long stride, int images,
              int height, int width, T* middle, T* out, int threads) {
    static thread_local Scratch<float> memory;
    const Pair<T> x{first, second, b.first_channels, second ? b.second_channels : 0};
    const Pair<T> h{middle, nullptr, b.out_channels, 0};
    const T* const weights_proj = static_cast<const T*>(b.weights_proj);
    const size_t pixels = size_t(height) * width, total = images * pixels;
    const size_t widest = std::max(x.channels(), b.out_channels);
    float* scale = memory.take(2 * images * widest);
    float* shift = scale + images * widest;
    const Strips strips1(height, width, images, E::OUTPUTS, x.channels(), threads);
    const Strips strips2(height, width, images, E::OUTPUTS, b.out_channels, threads);
    const int jobs = strips1.count();
    const Convolution<T> conv1{{x, height, width, false, scale, shift}, static_cast<const T*>(b.weights1), b.bias1,
                               nullptr, middle, b.out_channels};
    const Convolution<T> conv2{{h, height, width, false, scale, shift}, static_cast<const T*>(b.weights2), b.bias2,
                               weights_proj ? out : first, out, b.out_channels};
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic) nowait
        for (int i = 0; i < images; ++i)
            norm_of<E>(x, i, pixels, b.groups1, modulation + i * stride + b.place1, scale + size_t(i) * x.channels(),
                       shift + size_t(i) * x.channels());
        if (weights_proj) {
#pragma omp for schedule(dynamic) nowait
            for (int i = 0; i < jobs; ++i)
                pointwise<E>(x, total * i / jobs, total * (i + 1) / jobs, weights_proj, b.bias_proj, nullptr, out,
                             b.out_channels);
        }
#pragma omp barrier
#pragma omp for schedule(dynamic)
        for (int i = 0; i < jobs; ++i) convolve<E>(conv1, strips1, i);
#pragma omp for schedule(dynamic)
        for (int i = 0; i < images; ++i)
            norm_of<E>(h, i, pixels, b.groups2, modulation + i * stride + b.place2, scale + size_t(i) * h.channels(),
                       shift + size_t(i) * h.channels());
#pragma omp for schedule(dynamic)
        for (int i = 0; i < strips2.count(); ++i) convolve<E>(conv2, strips2, i);
    }
}

}  // namespace

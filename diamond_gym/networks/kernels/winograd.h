// 3x3 convolutions with padding by Winograd's minimal filtering (Lavin and Gray 2015, arXiv 1509.09308, section 4).
//
// Tiles of (M + 2)^2 inputs give M^2 outputs. F(2x2, 3x3) has 4 multiplications for an output and a pair of channels,
// F(4x4, 3x3) 2.25, where the definition has 9. Everything is computed by strips, rows of tiles whose transforms stay in
// the core's own cache.
#pragma once

#include <algorithm>
#include <cstring>

#include "products.h"

namespace {

constexpr int IN_FLIGHT = 36 * 2048;  // numbers of a strip's transformed tiles, which stay in the core's own cache
constexpr int PAD = 32;  // numbers between the planes of a buffer, lest all of them fall on the same cache set

// The transforms in one dimension. `input` is B^T, `output` A^T, `filter` G; `gradient` is A, `filter_gradient` G^T.
template <int M>
struct Winograd;

// F(2, 3) at the points 0, 1, -1 and infinity.
template <>
struct Winograd<2> {
    static void input(const Vector* d, Vector* t) {
        t[0] = d[0] - d[2], t[1] = d[1] + d[2], t[2] = d[2] - d[1], t[3] = d[1] - d[3];
    }
    static void output(const Vector* m, Vector* y) { y[0] = m[0] + m[1] + m[2], y[1] = m[1] - m[2] - m[3]; }
    static void filter(const Vector* g, Vector* u) {
        u[0] = g[0], u[1] = 0.5f * (g[0] + g[1] + g[2]), u[2] = 0.5f * (g[0] - g[1] + g[2]), u[3] = g[2];
    }
};

// F(4, 3) at the points 0, sqrt(1/2), -sqrt(1/2), sqrt(2), -sqrt(2) and infinity, whose rounding error is half of that
// at the usual 0, 1, -1, 2, -2: the largest and the smallest factors are nearer to each other.
template <>
struct Winograd<4> {
    static constexpr float NEAR = 0.70710678f, FAR = 1.41421356f;  // squares: 1/2 and 2
    static void input(const Vector* d, Vector* t) {
        const Vector e = d[4] - 2 * d[2], o = NEAR * (d[3] - 2 * d[1]);
        const Vector f = d[4] - 0.5f * d[2], p = FAR * (d[3] - 0.5f * d[1]);
        t[0] = d[0] - 2.5f * d[2] + d[4], t[5] = d[1] - 2.5f * d[3] + d[5];
        t[1] = e + o, t[2] = e - o, t[3] = f + p, t[4] = f - p;
    }
    static void output(const Vector* m, Vector* y) {
        const Vector s = m[1] + m[2], d = NEAR * (m[1] - m[2]), t = m[3] + m[4], e = FAR * (m[3] - m[4]);
        y[0] = m[0] + s + t, y[1] = d + e, y[2] = 0.5f * s + 2 * t, y[3] = 0.5f * d + 2 * e + m[5];
    }
    static void filter(const Vector* g, Vector* u) {
        const Vector e = (g[0] + 0.5f * g[2]) * (-2 / 3.f), o = g[1] * (-2 / 3.f * NEAR);
        const Vector f = (g[0] + 2 * g[2]) * (1 / 6.f), p = g[1] * (1 / 6.f * FAR);
        u[0] = g[0], u[1] = e + o, u[2] = e - o, u[3] = f + p, u[4] = f - p, u[5] = g[2];
    }
    static void gradient(const Vector* y, Vector* m) {
        const Vector e = y[0] + 0.5f * y[2], o = NEAR * (y[1] + 0.5f * y[3]);
        const Vector f = y[0] + 2 * y[2], p = FAR * (y[1] + 2 * y[3]);
        m[0] = y[0], m[1] = e + o, m[2] = e - o, m[3] = f + p, m[4] = f - p, m[5] = y[3];
    }
    static void filter_gradient(const Vector* u, Vector* g) {
        const Vector s = (u[1] + u[2]) * (-2 / 3.f), d = (u[1] - u[2]) * (-2 / 3.f * NEAR);
        const Vector t = (u[3] + u[4]) * (1 / 6.f), e = (u[3] - u[4]) * (1 / 6.f * FAR);
        g[0] = u[0] + s + t, g[1] = d + e, g[2] = 0.5f * s + 2 * t + u[5];
    }
};

// A transform in both dimensions: X (FROM x FROM, row by row) -> F X F^T (TO x TO).
template <int FROM, int TO, typename F>
inline void twice(const Vector* x, Vector* out, F transform) {
    Vector half[FROM][TO];  // [column][row]
#pragma GCC unroll 6
    for (int j = 0; j < FROM; ++j) {
        Vector column[FROM];
#pragma GCC unroll 6
        for (int i = 0; i < FROM; ++i) column[i] = x[i * FROM + j];
        transform(column, half[j]);
    }
#pragma GCC unroll 6
    for (int i = 0; i < TO; ++i) {
        Vector row[FROM];
#pragma GCC unroll 6
        for (int j = 0; j < FROM; ++j) row[j] = half[j][i];
        transform(row, out + i * TO);
    }
}

// What a convolution reads: images of a pair, either normed and activated or enlarged on the way.
template <typename T>
struct Source {
    Pair<T> images;
    int height, width;   // of the images, as they lie in memory
    bool twice;          // read every pixel twice in both directions
    const float* scale;  // (images, channels), or none: silu(x * scale + shift)
    const float* shift;
};

// One row of an image into `out` (pixels, channels), with `before` columns of zeros first and zeros up to `columns`.
template <typename E, typename Out = Float32>
void read_row(const Source<typename E::Number>& s, size_t image, int row, int before, int columns,
              typename Out::Number* out) {
    using Number = typename Out::Number;
    const int channels = s.images.channels(), zoom = s.twice ? 2 : 1, width = s.width * zoom;
    if (row < 0 || row >= s.height * zoom) {
        std::memset(out, 0, size_t(columns) * channels * sizeof(Number));
        return;
    }
    const size_t begin = size_t(before) * channels, end = begin + size_t(width) * channels;
    std::memset(out, 0, begin * sizeof(Number));
    std::memset(out + end, 0, (size_t(columns) * channels - end) * sizeof(Number));
    const size_t first_pixel = (image * s.height + row / zoom) * s.width;
    const auto read = [&](const typename E::Number* tensor, int count, int offset) {
        for (int c = 0; c < count; c += LANES) {
            const typename E::Number* from = tensor + first_pixel * count + c;
            Number* to = out + begin + offset + c;
            if (s.scale) {
                const Vector scale = load(s.scale + image * channels + offset + c);
                const Vector shift = load(s.shift + image * channels + offset + c);
                for (int x = 0; x < s.width; ++x, from += count, to += channels)
                    Out::write(to, silu<E>(E::read(from) * scale + shift));
            } else {
                for (int x = 0; x < width; ++x, to += channels) Out::write(to, E::read(from + x / zoom * count));
            }
        }
    };
    read(s.images.first, s.images.first_channels, 0);
    if (s.images.second) read(s.images.second, s.images.second_channels, s.images.first_channels);
}

// How the rows of tiles of all images, one image's after the other's, are divided into strips.
struct Strips {
    int tile_rows, tiles;  // of an image, and in each row
    int rows, rows_each;   // of all images, and in a strip

    Strips(int height, int width, int images, int outputs, int channels, int threads) {
        tile_rows = (height + outputs - 1) / outputs, tiles = (width + outputs - 1) / outputs;
        rows = images * tile_rows;
        const int tile = outputs > 1 ? outputs + 2 : 1;  // where a tile is a pixel, the inputs are not transformed
        const int at_once = IN_FLIGHT / (tile * tile * channels);
        rows_each = std::max(1, std::min(rows, at_once / tiles));
        while (threads > 1 && rows_each > 1 && count() < 2 * threads) rows_each /= 2;
    }
    int count() const { return (rows + rows_each - 1) / rows_each; }
    int first(int index) const { return index * rows_each; }
    int last(int index) const { return std::min(rows, (index + 1) * rows_each); }
};

// The transforms of the tiles of a strip, (positions, tiles, channels), the positions `plane` numbers apart. Tiles have
// SIZE^2 numbers, begin every STEP of them, the first one `before` the image's corner, and become TO^2 numbers.
template <typename E, int SIZE, int STEP, int TO, typename F>
void transform_tiles(const Source<typename E::Number>& source, const Strips& strips, int index, int before, size_t plane,
                     typename E::Number* out, F transform) {
    static thread_local Scratch<float> memory;
    const int channels = source.images.channels(), columns = STEP * strips.tiles + SIZE - STEP;
    const size_t line = size_t(columns) * channels;
    for (int row = strips.first(index), after; row < strips.last(index); row = after) {
        const int image = row / strips.tile_rows, y = row % strips.tile_rows;
        after = std::min(strips.last(index), (image + 1) * strips.tile_rows);  // what lies in the same image
        const int lines = STEP * (after - row) + SIZE - STEP;
        float* const input = memory.take(lines * line);
        for (int i = 0; i < lines; ++i)
            read_row<E>(source, image, STEP * y - before + i, before, columns, input + i * line);
        for (int r = 0; r < after - row; ++r)
            for (int tile = 0; tile < strips.tiles; ++tile, out += channels)
                for (int c = 0; c < channels; c += LANES) {
                    const float* from = input + STEP * r * line + size_t(STEP * tile) * channels + c;
                    Vector x[SIZE * SIZE], t[TO * TO];
#pragma GCC unroll 6
                    for (int i = 0; i < SIZE; ++i)
#pragma GCC unroll 6
                        for (int j = 0; j < SIZE; ++j) x[i * SIZE + j] = load(from + i * line + j * channels);
                    twice<SIZE, TO>(x, t, transform);
#pragma GCC unroll 36
                    for (int p = 0; p < TO * TO; ++p) E::write(out + p * plane + c, t[p]);
                }
    }
}

template <typename T>
struct Convolution {
    Source<T> source;
    const T* weights;   // blocks of output channels, in each the positions, in each the input channels
    const float* bias;  // (out_channels), or none
    const T* residual;  // added to the result, laid out like it, or none; may be `out` itself
    T* out;
    int out_channels;
};

// A^T m A of one row of tiles and N vectors of channels, with bias and residual, into the image.
template <typename E, int N>
void transform_outputs(const Convolution<typename E::Number>& job, const float* products, size_t plane, int tiles,
                       size_t image, int row, int first_channel) {
    constexpr int M = E::OUTPUTS, TILE = M + 2;
    const int zoom = job.source.twice ? 2 : 1, width = job.source.width * zoom, channels = job.out_channels;
    const int bottom = std::min(M, job.source.height * zoom - row);
    const size_t start = (image * job.source.height * zoom + row) * width * channels + first_channel;
    typename E::Number* const out = job.out + start;
    const typename E::Number* const residual = job.residual ? job.residual + start : nullptr;
    for (int tile = 0; tile < tiles; ++tile)
        for (int n = 0; n < N; ++n) {
            const Vector bias = job.bias ? load(job.bias + first_channel + n * LANES) : Vector{};
            const float* from = products + (size_t(tile) * N + n) * LANES;
            Vector m[TILE * TILE], y[M * M];
#pragma GCC unroll 36
            for (int p = 0; p < TILE * TILE; ++p) m[p] = load(from + p * plane);
            twice<TILE, M>(m, y, Winograd<M>::output);
            const int right = std::min(M, width - M * tile);
            for (int i = 0; i < bottom; ++i)
                for (int j = 0; j < right; ++j) {
                    const size_t at = size_t(i * width + M * tile + j) * channels + n * LANES;
                    const Vector value = y[i * M + j] + bias;
                    E::write(out + at, residual ? value + E::read(residual + at) : value);
                }
        }
}

// Strip `index` of a convolution.
template <typename E>
void convolve(const Convolution<typename E::Number>& job, const Strips& strips, int index) {
    constexpr int M = E::OUTPUTS, TILE = M + 2, POSITIONS = TILE * TILE;
    static thread_local Scratch<typename E::Number> input_memory;
    static thread_local Scratch<float> product_memory;
    const int first = strips.first(index), rows = strips.last(index) - first, tiles = rows * strips.tiles;
    const int channels = job.source.images.channels();
    const size_t plane = size_t(tiles) * channels + PAD;
    typename E::Number* const inputs = input_memory.take(POSITIONS * plane);
    transform_tiles<E, TILE, M, TILE>(job.source, strips, index, 1, plane, inputs, Winograd<M>::input);

    for_blocks(job.out_channels, size_t(POSITIONS) * channels, [&](auto count, int c, size_t start) {
        constexpr int N = decltype(count)::value;
        const size_t out_plane = size_t(tiles) * N * LANES + PAD;
        float* const products = product_memory.take(POSITIONS * out_plane);
        for (int p = 0; p < POSITIONS; ++p)
            product<E, N>(tiles, inputs + p * plane, channels, channels,
                          job.weights + start + size_t(p) * channels * N * LANES, products + p * out_plane);
        for (int r = 0; r < rows; ++r)
            transform_outputs<E, N>(job, products + size_t(r) * strips.tiles * N * LANES, out_plane, strips.tiles,
                                    (first + r) / strips.tile_rows, (first + r) % strips.tile_rows * M, c);
    });
}

// Filters of a 3x3 convolution, at weights[o * strides[0] + i * strides[1] + row * strides[2] + column * strides[3]].
struct Filters {
    float* weights;
    long strides[4];
    int out_channels, channels;
    bool turned;  // read for the way back, from the outputs to the inputs: by 180 degrees
    float* at(int o, int i, int k) const {
        k = turned ? 8 - k : k;
        return weights + o * strides[0] + i * strides[1] + k / 3 * strides[2] + k % 3 * strides[3];
    }
};

// G g G^T of all filters in the order in which `convolve` reads them; of the pairs of input channels that bfloat16's
// products take together, the outputs' numbers lie next to each other.
template <typename E>
void pack(const Filters& filters, typename E::Number* packed) {
    constexpr int TILE = E::OUTPUTS + 2, POSITIONS = TILE * TILE;
    for_blocks(filters.out_channels, size_t(POSITIONS) * filters.channels, [&](auto count, int c, size_t start) {
        constexpr int WIDTH = decltype(count)::value * LANES;
        for (int i = 0; i < filters.channels; ++i)
            for (int n = 0; n < WIDTH; n += LANES) {
                Vector g[9], u[POSITIONS];
                for (int k = 0; k < 9; ++k)
                    for (int lane = 0; lane < LANES; ++lane) g[k][lane] = *filters.at(c + n + lane, i, k);
                twice<3, TILE>(g, u, Winograd<E::OUTPUTS>::filter);
                for (int p = 0; p < POSITIONS; ++p) {
                    typename E::Number numbers[LANES];
                    E::write(numbers, u[p]);
                    typename E::Number* to = packed + start + (size_t(p) * filters.channels + i / E::DEPTH * E::DEPTH) * WIDTH;
                    for (int lane = 0; lane < LANES; ++lane) to[(n + lane) * E::DEPTH + i % E::DEPTH] = numbers[lane];
                }
            }
    });
}

// All strips of a convolution.
template <typename E>
void convolution(const Convolution<typename E::Number>& job, int images, int threads) {
    const int zoom = job.source.twice ? 2 : 1;
    const Strips strips(job.source.height * zoom, job.source.width * zoom, images, E::OUTPUTS,
                        job.source.images.channels(), threads);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int i = 0; i < strips.count(); ++i) convolve<E>(job, strips, i);
}

}  // namespace

// Residual blocks of a U-Net on CPUs: in float32 on any, in bfloat16 on those with AVX512-BF16.
//
// A 3x3 convolution is Winograd's F(2x2, 3x3) (Lavin and Gray 2015, arXiv 1509.09308, section 4.1): tiles of 4x4 inputs
// give 2x2 outputs with 16 multiplications per pair of channels instead of 36. Group norm, its condition and the SiLU are
// applied while the inputs are read, bias and residual while the outputs are written, so that a feature map is read once
// and written once per convolution. Sums are float32 in either arithmetic; what lies between is of the element's type.
//
// Tensors are images next to each other, each of H rows of W pixels of C channels (torch's channels_last). All numbers of
// channels are multiples of 16.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <type_traits>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

// LANES: float32 numbers in a vector. WIDE: vectors of output channels that are computed together for ROWS rows of a
// matrix, so that their sums, a row of weights and an input fill the processor's 32 or 16 registers.
#if defined(__AVX512F__)
constexpr int LANES = 16, WIDE = 4;
#elif defined(__AVX2__)
constexpr int LANES = 8, WIDE = 2;
#else
constexpr int LANES = 4, WIDE = 4;
#endif
constexpr int ROWS = 6;
constexpr int POSITIONS = 16;      // numbers in a transformed tile
constexpr int TILES_AT_ONCE = 64;  // tiles in flight: their transforms, 1 MB at most, stay in the core's own cache
constexpr int PAD = 32;            // numbers between the planes of a buffer, lest all of them fall on the same cache set

using Vector = float __attribute__((vector_size(4 * LANES)));
using Integers = int32_t __attribute__((vector_size(4 * LANES)));

// Scratch memory that grows, one per thread and purpose, aligned to cache lines.
template <typename T>
class Scratch {
   public:
    T* take(size_t count) {
        if (count > size_) {
            memory_.reset(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64)));
            size_ = count;
        }
        return memory_.get();
    }

   private:
    struct Free {
        void operator()(T* pointer) const { std::free(pointer); }
    };
    std::unique_ptr<T, Free> memory_;
    size_t size_ = 0;
};

inline Vector load(const float* p) {
    Vector x;
    std::memcpy(&x, p, sizeof x);
    return x;
}

inline void store(float* p, Vector x) { std::memcpy(p, &x, sizeof x); }

inline Vector all(float x) { return Vector{} + x; }

// 2 to the power of each t between -126 and 126: by a polynomial of the rest after rounding.
template <int DEGREE>
inline Vector exp2(Vector t) {
    constexpr float TAYLOR[] = {1.0f,          0.6931471806f,   0.2402265070f,  0.0555041087f,
                                0.0096181291f, 0.00133335581f, 0.000154035304f};
    constexpr float ROUND = 12582912;  // 1.5 * 2^23: what is added to it loses its fraction
    const Vector n = (t + ROUND) - ROUND, f = t - n;
    Vector p = all(TAYLOR[DEGREE]);
#pragma GCC unroll 8
    for (int k = DEGREE - 1; k >= 0; --k) p = p * f + TAYLOR[k];
    const Integers exponent = (__builtin_convertvector(n, Integers) + 127) << 23;
    return p * (Vector)exponent;
}

struct Float32 {
    using Number = float;
    using Weights = Vector;
    static constexpr int DEPTH = 1;       // input channels that one instruction multiplies
    static constexpr int EXP_DEGREE = 6;  // relative error 1e-7
    static Vector read(const float* p) { return load(p); }
    static void write(float* p, Vector x) { store(p, x); }
    static Weights weights(const float* p) { return load(p); }
    static Vector add_product(Vector sum, const float* x, Weights w) { return sum + *x * w; }
    static Vector inverse(Vector x) { return 1 / x; }
};

#ifdef __AVX512BF16__
struct Bfloat16 {
    using Number = uint16_t;
    using Weights = __m512bh;
    static constexpr int DEPTH = 2;
    static constexpr int EXP_DEGREE = 4;  // 4e-5: far below bfloat16's 4e-3
    static Vector read(const uint16_t* p) {
        const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16);
    }
    static void write(uint16_t* p, Vector x) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh((__m512)x));
    }
    static Weights weights(const uint16_t* p) { return (__m512bh)_mm512_loadu_si512(p); }
    static Vector add_product(Vector sum, const uint16_t* x, Weights w) {
        int32_t two;
        std::memcpy(&two, x, sizeof two);
        return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(two), w);
    }
    static Vector inverse(Vector x) { return (Vector)_mm512_rcp14_ps((__m512)x); }
};
#endif

// x * sigmoid(x); beyond 80 the sigmoid is 0 or 1 to all digits.
template <typename E>
inline Vector silu(Vector x) {
    Vector t = x * -1.44269504f;
    t = t > 115 ? all(115) : t;
    t = t < -115 ? all(-115) : t;
    return x * E::inverse(1 + exp2<E::EXP_DEGREE>(t));
}

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

// The pointwise convolution of pixels [begin, end) of a pair: out = weights * x + bias. The weights come in blocks of
// output channels, each with those of the first tensor and then of the second.
template <typename E, int N>
void pointwise_block(const Pair<typename E::Number>& x, size_t begin, size_t end, const typename E::Number* weights,
                     const float* bias, typename E::Number* out, int out_channels) {
    const auto some = [&](size_t p, auto count) {
        constexpr int R = decltype(count)::value;
        Vector sums[R][N];
        for (int r = 0; r < R; ++r)
            for (int n = 0; n < N; ++n) sums[r][n] = load(bias + n * LANES);
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

// What a convolution reads: images of a pair, either normed and activated or enlarged on the way.
template <typename T>
struct Source {
    Pair<T> images;
    int height, width;   // of the images, as they lie in memory
    bool twice;          // read every pixel twice in both directions
    const float* scale;  // (images, channels), or none: silu(x * scale + shift)
    const float* shift;
};

// One row of an image into `out` (pixels, channels), with a column of zeros before it and zeros up to `columns`.
template <typename E>
void read_row(const Source<typename E::Number>& s, size_t image, int row, int columns, float* out) {
    const int channels = s.images.channels(), zoom = s.twice ? 2 : 1, width = s.width * zoom;
    if (row < 0 || row >= s.height * zoom) {
        std::memset(out, 0, size_t(columns) * channels * sizeof(float));
        return;
    }
    std::memset(out, 0, channels * sizeof(float));
    std::memset(out + size_t(width + 1) * channels, 0, size_t(columns - width - 1) * channels * sizeof(float));
    const size_t first_pixel = (image * s.height + row / zoom) * s.width;
    const auto read = [&](const typename E::Number* tensor, int count, int offset) {
        for (int c = 0; c < count; c += LANES) {
            const typename E::Number* from = tensor + first_pixel * count + c;
            float* to = out + channels + offset + c;
            if (s.scale) {
                const Vector scale = load(s.scale + image * channels + offset + c);
                const Vector shift = load(s.shift + image * channels + offset + c);
                for (int x = 0; x < s.width; ++x, from += count, to += channels)
                    store(to, silu<E>(E::read(from) * scale + shift));
            } else {
                for (int x = 0; x < width; ++x, to += channels) store(to, E::read(from + x / zoom * count));
            }
        }
    };
    read(s.images.first, s.images.first_channels, 0);
    if (s.images.second) read(s.images.second, s.images.second_channels, s.images.first_channels);
}

// The transforms B^T d B of one row of tiles; rows are the four input rows, `columns` pixels each.
template <typename E>
void transform_inputs(const float* rows, int columns, int channels, int tiles, typename E::Number* out, size_t plane) {
    const size_t line = size_t(columns) * channels;
    for (int c = 0; c < channels; c += LANES) {
        Vector t[4][4];  // [column][row of B^T d]
        const auto column = [&](int x, Vector(&to)[4]) {
            const float* p = rows + size_t(x) * channels + c;
            const Vector d0 = load(p), d1 = load(p + line), d2 = load(p + 2 * line), d3 = load(p + 3 * line);
            to[0] = d0 - d2, to[1] = d1 + d2, to[2] = d2 - d1, to[3] = d1 - d3;
        };
        column(0, t[0]);
        column(1, t[1]);
        for (int tile = 0; tile < tiles; ++tile) {
            column(2 * tile + 2, t[2]);
            column(2 * tile + 3, t[3]);
            typename E::Number* to = out + size_t(tile) * channels + c;
            for (int i = 0; i < 4; ++i) {
                E::write(to + (4 * i + 0) * plane, t[0][i] - t[2][i]);
                E::write(to + (4 * i + 1) * plane, t[1][i] + t[2][i]);
                E::write(to + (4 * i + 2) * plane, t[2][i] - t[1][i]);
                E::write(to + (4 * i + 3) * plane, t[1][i] - t[3][i]);
            }
            for (int i = 0; i < 4; ++i) t[0][i] = t[2][i], t[1][i] = t[3][i];
        }
    }
}

template <typename T>
struct Convolution {
    Source<T> source;
    const T* weights;    // blocks of output channels, in each 16 positions, in each the input channels
    const float* bias;   // (out_channels)
    const T* residual;   // added to the result, laid out like it, or none; may be `out` itself
    T* out;
    int out_channels;
};

// A^T m A of one row of tiles and N vectors of channels, with bias and residual, into the image.
template <typename E, int N>
void transform_outputs(const Convolution<typename E::Number>& job, const float* products, size_t plane, int tiles,
                       size_t image, int row, int first_channel) {
    const int zoom = job.source.twice ? 2 : 1, width = job.source.width * zoom, channels = job.out_channels;
    const int bottom = std::min(2, job.source.height * zoom - row);
    const size_t start = (image * job.source.height * zoom + row) * width * channels + first_channel;
    typename E::Number* const out = job.out + start;
    const typename E::Number* const residual = job.residual ? job.residual + start : nullptr;
    for (int n = 0; n < N; ++n) {
        const Vector bias = load(job.bias + first_channel + n * LANES);
        for (int tile = 0; tile < tiles; ++tile) {
            const float* from = products + (size_t(tile) * N + n) * LANES;
            Vector s[2][4];
            for (int j = 0; j < 4; ++j) {
                const Vector m0 = load(from + j * plane), m1 = load(from + (4 + j) * plane);
                const Vector m2 = load(from + (8 + j) * plane), m3 = load(from + (12 + j) * plane);
                s[0][j] = m0 + m1 + m2, s[1][j] = m1 - m2 - m3;
            }
            const auto pixel = [&](int i, int j, Vector value) {
                const size_t at = size_t(i * width + 2 * tile + j) * channels + n * LANES;
                value += bias;
                E::write(out + at, residual ? value + E::read(residual + at) : value);
            };
            for (int i = 0; i < bottom; ++i) {
                pixel(i, 0, s[i][0] + s[i][1] + s[i][2]);
                if (2 * tile + 1 < width) pixel(i, 1, s[i][1] - s[i][2] - s[i][3]);
            }
        }
    }
}

// How the rows of tiles of all images are divided among the threads.
struct Strips {
    int tile_rows, tiles, rows_each, per_image;

    Strips(int height, int width, int images, int threads) {
        tile_rows = (height + 1) / 2, tiles = (width + 1) / 2;
        rows_each = std::max(1, std::min(tile_rows, TILES_AT_ONCE / tiles));
        while (rows_each > 1 && images * ((tile_rows + rows_each - 1) / rows_each) < 2 * threads) rows_each /= 2;
        per_image = (tile_rows + rows_each - 1) / rows_each;
    }
};

// Strip `index` of a convolution.
template <typename E>
void convolve(const Convolution<typename E::Number>& job, const Strips& strips, int index) {
    static thread_local Scratch<typename E::Number> input_memory;
    static thread_local Scratch<float> row_memory, product_memory;
    const size_t image = index / strips.per_image;
    const int first = index % strips.per_image * strips.rows_each;
    const int rows = std::min(strips.rows_each, strips.tile_rows - first), tiles = rows * strips.tiles;
    const int channels = job.source.images.channels(), columns = 2 * strips.tiles + 2;
    const size_t line = size_t(columns) * channels, plane = size_t(tiles) * channels + PAD;

    float* lines = row_memory.take((2 * rows + 2) * line);
    for (int y = 0; y < 2 * rows + 2; ++y) read_row<E>(job.source, image, 2 * first + y - 1, columns, lines + y * line);
    typename E::Number* inputs = input_memory.take(POSITIONS * plane);
    for (int y = 0; y < rows; ++y)
        transform_inputs<E>(lines + 2 * y * line, columns, channels, strips.tiles,
                         inputs + size_t(y) * strips.tiles * channels, plane);

    for_blocks(job.out_channels, size_t(POSITIONS) * channels, [&](auto count, int c, size_t start) {
        constexpr int N = decltype(count)::value;
        const size_t out_plane = size_t(tiles) * N * LANES + PAD;
        float* products = product_memory.take(POSITIONS * out_plane);
        for (int p = 0; p < POSITIONS; ++p)
            product<E, N>(tiles, inputs + p * plane, channels, channels,
                          job.weights + start + size_t(p) * channels * N * LANES, products + p * out_plane);
        for (int y = 0; y < rows; ++y)
            transform_outputs<E, N>(job, products + size_t(y) * strips.tiles * N * LANES, out_plane, strips.tiles, image,
                                 2 * (first + y), c);
    });
}

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
    const Strips strips(height, width, images, threads);
    const int jobs = images * strips.per_image;
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
                for_blocks(b.out_channels, x.channels(), [&](auto count, int c, size_t start) {
                    pointwise_block<E, decltype(count)::value>(x, total * i / jobs, total * (i + 1) / jobs,
                                                               weights_proj + start, b.bias_proj + c, out + c,
                                                               b.out_channels);
                });
        }
#pragma omp barrier
#pragma omp for schedule(dynamic)
        for (int i = 0; i < jobs; ++i) convolve<E>(conv1, strips, i);
#pragma omp for schedule(dynamic)
        for (int i = 0; i < images; ++i)
            norm_of<E>(h, i, pixels, b.groups2, modulation + i * stride + b.place2, scale + size_t(i) * h.channels(),
                       shift + size_t(i) * h.channels());
#pragma omp for schedule(dynamic)
        for (int i = 0; i < jobs; ++i) convolve<E>(conv2, strips, i);
    }
}

template <typename E, typename T = typename E::Number>
void convolution(const T* x, int channels, const T* weights, const float* bias, int out_channels, int images,
                 int height, int width, bool twice, T* out, int threads) {
    const int zoom = twice ? 2 : 1;
    const Strips strips(height * zoom, width * zoom, images, threads);
    const Convolution<T> job{{{x, nullptr, channels, 0}, height, width, twice, nullptr, nullptr},
                             weights, bias, nullptr, out, out_channels};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int i = 0; i < images * strips.per_image; ++i) convolve<E>(job, strips, i);
}

// How many output channels a block of packed weights has.
int64_t block_width() { return WIDE * LANES; }

// Whether there are the functions on bfloat16.
bool has_bfloat16() {
#ifdef __AVX512BF16__
    return true;
#else
    return false;
#endif
}

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

// Calls `run` with the element of a tensor's type.
template <typename Run>
void with_element(const Tensor& x, Run run) {
    if (x.scalar_type() == ScalarType::Float) return run(Float32{});
#ifdef __AVX512BF16__
    if (x.scalar_type() == ScalarType::BFloat16) return run(Bfloat16{});
#endif
    STD_TORCH_CHECK(false, "the kernels know no numbers of this type here");
}

template <typename T>
const T* numbers(const Tensor& x) {
    return static_cast<const T*>(x.const_data_ptr());
}

// Images (B, C, H, W) as the kernels read them, pixel by pixel.
Tensor channels_last(const Tensor& x) {
    STD_TORCH_CHECK(x.dim() == 4 && x.size(1) % 16 == 0, "images are (B, C, H, W) of a multiple of 16 channels");
    return torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
}

Tensor new_images(const Tensor& like, int64_t channels, int zoom) {
    return torch::stable::empty({like.size(0), channels, zoom * like.size(2), zoom * like.size(3)}, like.scalar_type(),
                                std::nullopt, std::nullopt, std::nullopt, MemoryFormat::ChannelsLast);
}

// Refuses others than packed weights of the images' type and a bias in float32, of so many multiplications an output.
void check_weights(const Tensor& x, const Tensor& weights, const Tensor& bias, int64_t multiplications) {
    STD_TORCH_CHECK(weights.scalar_type() == x.scalar_type() && weights.is_contiguous() && bias.is_contiguous() &&
                        bias.scalar_type() == ScalarType::Float && bias.numel() % 16 == 0 &&
                        weights.numel() == bias.numel() * multiplications,
                    "these weights are not packed for these images");
}

// See the schema of `resblock` below: x and skip lie side by side, the block's scales and shifts begin at `place`.
Tensor resblock_of(Tensor images, MaybeTensor more, Tensor modulation, Tensor weights1, Tensor bias1, Tensor weights2,
                   Tensor bias2, MaybeTensor weights_proj, MaybeTensor bias_proj, int64_t groups1, int64_t groups2,
                   int64_t place) {
    const Tensor x = channels_last(images), skip = more ? channels_last(*more) : x;
    STD_TORCH_CHECK(skip.scalar_type() == x.scalar_type() && skip.size(0) == x.size(0) && skip.size(2) == x.size(2) &&
                        skip.size(3) == x.size(3),
                    "x and its skip are of one type, number and size");
    const int64_t skipped = more ? skip.size(1) : 0, in = x.size(1) + skipped, out_channels = bias1.numel();
    check_weights(x, weights1, bias1, POSITIONS * in);
    check_weights(x, weights2, bias2, POSITIONS * out_channels);
    STD_TORCH_CHECK(bias2.numel() == out_channels, "both convolutions have as many outputs");
    STD_TORCH_CHECK(weights_proj.has_value() == bias_proj.has_value(), "a projection has weights and a bias");
    if (weights_proj) check_weights(x, *weights_proj, *bias_proj, in);
    STD_TORCH_CHECK(weights_proj ? bias_proj->numel() == out_channels : !more && in == out_channels,
                    "without a projection x alone is as wide as the output");
    STD_TORCH_CHECK(groups1 > 0 && groups2 > 0 && in % groups1 == 0 && out_channels % groups2 == 0,
                    "groups divide the channels");
    STD_TORCH_CHECK(modulation.scalar_type() == ScalarType::Float && modulation.dim() == 2 &&
                        modulation.size(0) == x.size(0) && modulation.stride(1) == 1 && place >= 0 &&
                        place + 2 * (in + out_channels) <= modulation.size(1),
                    "the modulation is float32 (B, 2 * all channels), each row in one piece");
    const Tensor out = new_images(x, out_channels, 1), middle = new_images(x, out_channels, 1);
    const ResBlock block{weights1.const_data_ptr(),
                         weights2.const_data_ptr(),
                         weights_proj ? weights_proj->const_data_ptr() : nullptr,
                         numbers<float>(bias1),
                         numbers<float>(bias2),
                         bias_proj ? numbers<float>(*bias_proj) : nullptr,
                         int(x.size(1)),
                         int(skipped),
                         int(out_channels),
                         int(groups1),
                         int(groups2),
                         int(place),
                         int(place + 2 * in)};
    with_element(x, [&](auto element) {
        using E = decltype(element);
        using T = typename E::Number;
        resblock<E>(block, numbers<T>(x), more ? numbers<T>(skip) : nullptr, numbers<float>(modulation),
                    modulation.stride(0), int(x.size(0)), int(x.size(2)), int(x.size(3)),
                    static_cast<T*>(middle.mutable_data_ptr()), static_cast<T*>(out.mutable_data_ptr()),
                    int(torch::stable::get_num_threads()));
    });
    return out;
}

// See the schema of `upsample` below.
Tensor upsample_of(Tensor images, Tensor weights, Tensor bias) {
    const Tensor x = channels_last(images);
    check_weights(x, weights, bias, POSITIONS * x.size(1));
    const Tensor out = new_images(x, bias.numel(), 2);
    with_element(x, [&](auto element) {
        using E = decltype(element);
        using T = typename E::Number;
        convolution<E>(numbers<T>(x), int(x.size(1)), numbers<T>(weights), numbers<float>(bias), int(bias.numel()),
                       int(x.size(0)), int(x.size(2)), int(x.size(3)), true, static_cast<T*>(out.mutable_data_ptr()),
                       int(torch::stable::get_num_threads()));
    });
    return out;
}

}  // namespace

STABLE_TORCH_LIBRARY(diamond_gym, m) {
    // conv2(silu(norm2(conv1(silu(norm1(cat(x, skip))))))) + proj(cat(x, skip)): (B, out_channels, H, W)
    m.def(
        "resblock(Tensor x, Tensor? skip, Tensor modulation, Tensor weights1, Tensor bias1, Tensor weights2, "
        "Tensor bias2, Tensor? weights_proj, Tensor? bias_proj, int groups1, int groups2, int place) -> Tensor");
    // A 3x3 convolution with padding of x read twice as large: (B, out_channels, 2H, 2W)
    m.def("upsample(Tensor x, Tensor weights, Tensor bias) -> Tensor");
    m.def("block_width() -> int");
    m.def("has_bfloat16() -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(diamond_gym, CPU, m) {
    m.impl("resblock", TORCH_BOX(&resblock_of));
    m.impl("upsample", TORCH_BOX(&upsample_of));
}

STABLE_TORCH_LIBRARY_IMPL(diamond_gym, CompositeImplicitAutograd, m) {
    m.impl("block_width", TORCH_BOX(&block_width));
    m.impl("has_bfloat16", TORCH_BOX(&has_bfloat16));
}

// Residual blocks of a U-Net in bfloat16 on processors with AVX512-BF16.
//
// A 3x3 convolution is Winograd's F(2x2, 3x3) (Lavin and Gray 2015, arXiv 1509.09308, section 4.1): tiles of 4x4 inputs
// give 2x2 outputs with 16 multiplications per pair of channels instead of 36. Group norm, its condition and the SiLU are
// applied while the inputs are read, bias and residual while the outputs are written, so that a feature map is read once
// and written once per convolution. Sums are float32; what is stored between is bfloat16.
//
// Tensors are images next to each other, each of H rows of W pixels of C channels (torch's channels_last). All numbers of
// channels are multiples of 16.

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <type_traits>

#ifndef __AVX512BF16__
#error "these kernels need a processor with AVX512-BF16"
#endif

namespace {

using bf16 = uint16_t;

constexpr int LANES = 16;          // float32 numbers in a vector
constexpr int WIDE = 4;            // vectors of output channels that are computed together
constexpr int ROWS = 6;            // rows of a matrix that are: 6 x 4 sums, 4 weights and an input fit into 32 registers
constexpr int POSITIONS = 16;      // numbers in a transformed tile
constexpr int TILES_AT_ONCE = 64;  // tiles in flight: their transforms, some 0.5 MB, stay in the core's own cache
constexpr int PAD = 32;            // numbers between the planes of a buffer, lest all of them fall on the same cache set

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

inline __m512 widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }

inline __m512 load(const bf16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }

inline void store(bf16* p, __m512 x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(x));
}

// x * sigmoid(x), its exponential by a polynomial of relative error 4e-5: far below bfloat16's 4e-3.
inline __m512 silu(__m512 x) {
    const __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f));
    const __m512 n = _mm512_roundscale_ps(t, 0);
    const __m512 f = _mm512_sub_ps(t, n);
    __m512 p = _mm512_set1_ps(0.0096181291f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.0555041087f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.2402265070f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6931471806f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    const __m512 e = _mm512_scalef_ps(p, n);
    return _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(e, _mm512_set1_ps(1.0f))));
}

// Channels of an image that lie in two tensors, as if they had been concatenated.
struct Pair {
    const bf16* first;
    const bf16* second;
    int first_channels, second_channels;
    int channels() const { return first_channels + second_channels; }
};

// sums[r][n] += R rows of a (row stride lda) times a packed block of weights of N vectors of output channels.
template <int R, int N>
inline void multiply(const bf16* a, size_t lda, int pairs, const bf16* weights, __m512 (&sums)[R][N]) {
    for (int k = 0; k < pairs; ++k) {
        __m512bh w[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) w[n] = (__m512bh)_mm512_loadu_si512(weights + (size_t(k) * N + n) * 2 * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            int32_t two;  // neighbouring input channels, multiplied and added by one instruction
            std::memcpy(&two, a + r * lda + 2 * k, sizeof two);
            const __m512bh x = (__m512bh)_mm512_set1_epi32(two);
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) sums[r][n] = _mm512_dpbf16_ps(sums[r][n], x, w[n]);
        }
    }
}

// out (rows, N vectors, float32) = a (rows, 2 * pairs) times weights.
template <int R, int N>
void product_rows(const bf16* a, size_t lda, int pairs, const bf16* weights, float* out) {
    __m512 sums[R][N];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) sums[r][n] = _mm512_setzero_ps();
    multiply<R, N>(a, lda, pairs, weights, sums);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) _mm512_store_ps(out + (r * N + n) * LANES, sums[r][n]);
}

template <int R, int N>
void product_rest(int rows, const bf16* a, size_t lda, int pairs, const bf16* weights, float* out) {
    if constexpr (R > 0) {
        if (rows == R)
            product_rows<R, N>(a, lda, pairs, weights, out);
        else
            product_rest<R - 1, N>(rows, a, lda, pairs, weights, out);
    }
}

template <int N>
void product(int rows, const bf16* a, size_t lda, int pairs, const bf16* weights, float* out) {
    int r = 0;
    for (; r + ROWS <= rows; r += ROWS) product_rows<ROWS, N>(a + r * lda, lda, pairs, weights, out + r * N * LANES);
    product_rest<ROWS - 1, N>(rows - r, a + r * lda, lda, pairs, weights, out + r * N * LANES);
}

// The pointwise convolution of pixels [begin, end) of a pair: out = weights * x + bias. The weights come in blocks of
// output channels, each with those of the first tensor and then of the second.
template <int N>
void pointwise_block(const Pair& x, size_t begin, size_t end, const bf16* weights, const float* bias, bf16* out,
                     int out_channels) {
    for (size_t p = begin; p < end;) {
        const int rows = int(std::min<size_t>(ROWS, end - p));
        const auto some = [&](auto count) {
            constexpr int R = decltype(count)::value;
            __m512 sums[R][N];
            for (int r = 0; r < R; ++r)
                for (int n = 0; n < N; ++n) sums[r][n] = _mm512_loadu_ps(bias + n * LANES);
            multiply<R, N>(x.first + p * x.first_channels, x.first_channels, x.first_channels / 2, weights, sums);
            if (x.second)
                multiply<R, N>(x.second + p * x.second_channels, x.second_channels, x.second_channels / 2,
                               weights + size_t(x.first_channels) * N * LANES, sums);
            for (int r = 0; r < R; ++r)
                for (int n = 0; n < N; ++n) store(out + (p + r) * out_channels + n * LANES, sums[r][n]);
            p += R;
        };
        if (rows == ROWS)
            some(std::integral_constant<int, ROWS>{});
        else
            some(std::integral_constant<int, 1>{});
    }
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
struct Source {
    Pair images;
    int height, width;   // of the images, as they lie in memory
    bool twice;          // read every pixel twice in both directions
    const float* scale;  // (images, channels), or none: silu(x * scale + shift)
    const float* shift;
};

// One row of an image into `out` (pixels, channels), with a column of zeros before it and zeros up to `columns`.
void read_row(const Source& s, size_t image, int row, int columns, float* out) {
    const int channels = s.images.channels(), zoom = s.twice ? 2 : 1, width = s.width * zoom;
    if (row < 0 || row >= s.height * zoom) {
        std::memset(out, 0, size_t(columns) * channels * sizeof(float));
        return;
    }
    std::memset(out, 0, channels * sizeof(float));
    std::memset(out + size_t(width + 1) * channels, 0, size_t(columns - width - 1) * channels * sizeof(float));
    const size_t first_pixel = (image * s.height + row / zoom) * s.width;
    const auto read = [&](const bf16* tensor, int count, int offset) {
        for (int c = 0; c < count; c += LANES) {
            const bf16* from = tensor + first_pixel * count + c;
            float* to = out + channels + offset + c;
            if (s.scale) {
                const __m512 scale = _mm512_loadu_ps(s.scale + image * channels + offset + c);
                const __m512 shift = _mm512_loadu_ps(s.shift + image * channels + offset + c);
                for (int x = 0; x < s.width; ++x, from += count, to += channels)
                    _mm512_storeu_ps(to, silu(_mm512_fmadd_ps(load(from), scale, shift)));
            } else {
                for (int x = 0; x < width; ++x, to += channels) _mm512_storeu_ps(to, load(from + x / zoom * count));
            }
        }
    };
    read(s.images.first, s.images.first_channels, 0);
    if (s.images.second) read(s.images.second, s.images.second_channels, s.images.first_channels);
}

// The transforms B^T d B of one row of tiles; rows are the four input rows, `columns` pixels each.
void transform_inputs(const float* rows, int columns, int channels, int tiles, bf16* out, size_t plane) {
    const size_t line = size_t(columns) * channels;
    for (int c = 0; c < channels; c += LANES) {
        __m512 t[4][4];  // [column][row of B^T d]
        const auto column = [&](int x, __m512(&to)[4]) {
            const float* p = rows + size_t(x) * channels + c;
            const __m512 d0 = _mm512_load_ps(p), d1 = _mm512_load_ps(p + line);
            const __m512 d2 = _mm512_load_ps(p + 2 * line), d3 = _mm512_load_ps(p + 3 * line);
            to[0] = _mm512_sub_ps(d0, d2);
            to[1] = _mm512_add_ps(d1, d2);
            to[2] = _mm512_sub_ps(d2, d1);
            to[3] = _mm512_sub_ps(d1, d3);
        };
        column(0, t[0]);
        column(1, t[1]);
        for (int tile = 0; tile < tiles; ++tile) {
            column(2 * tile + 2, t[2]);
            column(2 * tile + 3, t[3]);
            bf16* to = out + size_t(tile) * channels + c;
            for (int i = 0; i < 4; ++i) {
                store(to + (4 * i + 0) * plane, _mm512_sub_ps(t[0][i], t[2][i]));
                store(to + (4 * i + 1) * plane, _mm512_add_ps(t[1][i], t[2][i]));
                store(to + (4 * i + 2) * plane, _mm512_sub_ps(t[2][i], t[1][i]));
                store(to + (4 * i + 3) * plane, _mm512_sub_ps(t[1][i], t[3][i]));
            }
            for (int i = 0; i < 4; ++i) t[0][i] = t[2][i], t[1][i] = t[3][i];
        }
    }
}

struct Convolution {
    Source source;
    const bf16* weights;   // blocks of output channels of 16 positions of pairs of input channels
    const float* bias;     // (out_channels)
    const bf16* residual;  // added to the result, laid out like it, or none; may be `out` itself
    bf16* out;
    int out_channels;
};

// A^T m A of one row of tiles and N vectors of channels, with bias and residual, into the image.
template <int N>
void transform_outputs(const Convolution& job, const float* products, size_t plane, int tiles, size_t image, int row,
                       int first_channel) {
    const int zoom = job.source.twice ? 2 : 1, width = job.source.width * zoom, channels = job.out_channels;
    const int bottom = std::min(2, job.source.height * zoom - row);
    const size_t start = (image * job.source.height * zoom + row) * width * channels + first_channel;
    bf16* const out = job.out + start;
    const bf16* const residual = job.residual ? job.residual + start : nullptr;
    for (int n = 0; n < N; ++n) {
        const __m512 bias = _mm512_loadu_ps(job.bias + first_channel + n * LANES);
        for (int tile = 0; tile < tiles; ++tile) {
            const float* from = products + (size_t(tile) * N + n) * LANES;
            __m512 s[2][4];
            for (int j = 0; j < 4; ++j) {
                const __m512 m0 = _mm512_load_ps(from + j * plane), m1 = _mm512_load_ps(from + (4 + j) * plane);
                const __m512 m2 = _mm512_load_ps(from + (8 + j) * plane), m3 = _mm512_load_ps(from + (12 + j) * plane);
                s[0][j] = _mm512_add_ps(_mm512_add_ps(m0, m1), m2);
                s[1][j] = _mm512_sub_ps(_mm512_sub_ps(m1, m2), m3);
            }
            const auto pixel = [&](int i, int j, __m512 value) {
                const size_t at = size_t(i * width + 2 * tile + j) * channels + n * LANES;
                value = _mm512_add_ps(value, bias);
                store(out + at, residual ? _mm512_add_ps(value, load(residual + at)) : value);
            };
            for (int i = 0; i < bottom; ++i) {
                pixel(i, 0, _mm512_add_ps(_mm512_add_ps(s[i][0], s[i][1]), s[i][2]));
                if (2 * tile + 1 < width) pixel(i, 1, _mm512_sub_ps(_mm512_sub_ps(s[i][1], s[i][2]), s[i][3]));
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
void convolve(const Convolution& job, const Strips& strips, int index) {
    static thread_local Scratch<bf16> input_memory;
    static thread_local Scratch<float> row_memory, product_memory;
    const size_t image = index / strips.per_image;
    const int first = index % strips.per_image * strips.rows_each;
    const int rows = std::min(strips.rows_each, strips.tile_rows - first), tiles = rows * strips.tiles;
    const int channels = job.source.images.channels(), columns = 2 * strips.tiles + 2;
    const size_t line = size_t(columns) * channels, plane = size_t(tiles) * channels + PAD;

    float* lines = row_memory.take((2 * rows + 2) * line);
    for (int y = 0; y < 2 * rows + 2; ++y) read_row(job.source, image, 2 * first + y - 1, columns, lines + y * line);
    bf16* inputs = input_memory.take(POSITIONS * plane);
    for (int y = 0; y < rows; ++y)
        transform_inputs(lines + 2 * y * line, columns, channels, strips.tiles,
                         inputs + size_t(y) * strips.tiles * channels, plane);

    for_blocks(job.out_channels, size_t(POSITIONS) * channels, [&](auto count, int c, size_t start) {
        constexpr int N = decltype(count)::value;
        const size_t out_plane = size_t(tiles) * N * LANES + PAD;
        float* products = product_memory.take(POSITIONS * out_plane);
        for (int p = 0; p < POSITIONS; ++p)
            product<N>(tiles, inputs + p * plane, channels, channels / 2,
                       job.weights + start + size_t(p) * channels * N * LANES, products + p * out_plane);
        for (int y = 0; y < rows; ++y)
            transform_outputs<N>(job, products + size_t(y) * strips.tiles * N * LANES, out_plane, strips.tiles, image,
                                 2 * (first + y), c);
    });
}

// Sums and sums of squares of each channel over pixels [begin, end) of one tensor, added to sum and square.
void add_moments(const bf16* x, int channels, size_t begin, size_t end, double* sum, double* square) {
    constexpr int RUN = 64;  // pixels that are summed in float32, in four sums that do not wait for each other
    for (int c = 0; c < channels; c += LANES) {
        for (size_t p = begin; p < end; p += RUN) {
            __m512 s[4], q[4];
            for (int k = 0; k < 4; ++k) s[k] = q[k] = _mm512_setzero_ps();
            const auto add = [&](int k, size_t pixel) {
                const __m512 v = load(x + pixel * channels + c);
                s[k] = _mm512_add_ps(s[k], v);
                q[k] = _mm512_fmadd_ps(v, v, q[k]);
            };
            const size_t stop = std::min(p + RUN, end);
            size_t i = p;
            for (; i + 4 <= stop; i += 4)
#pragma GCC unroll 4
                for (int k = 0; k < 4; ++k) add(k, i + k);
            for (; i < stop; ++i) add(0, i);
            alignas(64) float sums[LANES], squares[LANES];
            _mm512_store_ps(sums, _mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3])));
            _mm512_store_ps(squares, _mm512_add_ps(_mm512_add_ps(q[0], q[1]), _mm512_add_ps(q[2], q[3])));
            for (int k = 0; k < LANES; ++k) sum[c + k] += sums[k], square[c + k] += squares[k];
        }
    }
}

// The group norm of an image and its condition as one scale and shift per channel.
void norm_of(const Pair& x, size_t image, size_t pixels, int groups, const float* modulation, float* scale,
             float* shift) {
    constexpr double EPS = 1e-5;
    static thread_local Scratch<double> memory;
    const int channels = x.channels(), each = channels / groups;
    double* sum = memory.take(2 * size_t(channels));
    double* square = sum + channels;
    std::fill(sum, sum + 2 * channels, 0.0);
    const size_t begin = image * pixels, end = begin + pixels;
    add_moments(x.first, x.first_channels, begin, end, sum, square);
    if (x.second)
        add_moments(x.second, x.second_channels, begin, end, sum + x.first_channels, square + x.first_channels);
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

}  // namespace

extern "C" {

// A residual block: conv2(silu(norm2(conv1(silu(norm1(x)))))) + proj(x), where x is first and second side by side.
struct ResBlock {
    const bf16 *weights1, *weights2, *weights_proj;  // packed; weights_proj is none where x has the width of the output
    const float *bias1, *bias2, *bias_proj;
    int first_channels, second_channels, out_channels, groups1, groups2;
    int place1, place2;  // of the norms' scales and shifts in a row of the modulation
};

// first (images, H, W, first_channels) and second, modulation (images, stride): out (images, H, W, out_channels).
void resblock(const ResBlock* b, const bf16* first, const bf16* second, const float* modulation, long stride,
              int images, int height, int width, bf16* middle, bf16* out, int threads) {
    static thread_local Scratch<float> memory;
    const Pair x{first, second, b->first_channels, second ? b->second_channels : 0}, h{middle, nullptr, b->out_channels, 0};
    const size_t pixels = size_t(height) * width, widest = std::max(x.channels(), b->out_channels);
    float* scale = memory.take(2 * images * widest);
    float* shift = scale + images * widest;
    const Strips strips(height, width, images, threads);
    const int jobs = images * strips.per_image;
    const Convolution conv1{{x, height, width, false, scale, shift}, b->weights1, b->bias1, nullptr, middle, b->out_channels};
    const Convolution conv2{{h, height, width, false, scale, shift}, b->weights2, b->bias2,
                            b->weights_proj ? out : first, out, b->out_channels};
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic) nowait
        for (int i = 0; i < images; ++i)
            norm_of(x, i, pixels, b->groups1, modulation + i * stride + b->place1, scale + size_t(i) * x.channels(),
                    shift + size_t(i) * x.channels());
        if (b->weights_proj) {
#pragma omp for schedule(dynamic) nowait
            for (int i = 0; i < jobs; ++i) {
                const size_t total = images * pixels;
                for_blocks(b->out_channels, x.channels(), [&](auto count, int c, size_t start) {
                    pointwise_block<decltype(count)::value>(x, total * i / jobs, total * (i + 1) / jobs,
                                                            b->weights_proj + start, b->bias_proj + c, out + c,
                                                            b->out_channels);
                });
            }
        }
#pragma omp barrier
#pragma omp for schedule(dynamic)
        for (int i = 0; i < jobs; ++i) convolve(conv1, strips, i);
#pragma omp for schedule(dynamic)
        for (int i = 0; i < images; ++i)
            norm_of(h, i, pixels, b->groups2, modulation + i * stride + b->place2, scale + size_t(i) * h.channels(),
                    shift + size_t(i) * h.channels());
#pragma omp for schedule(dynamic)
        for (int i = 0; i < jobs; ++i) convolve(conv2, strips, i);
    }
}

// A 3x3 convolution with padding, of images read twice as large where `twice`: (images, H, W, out_channels).
void convolution(const bf16* x, int channels, const bf16* weights, const float* bias, int out_channels, int images,
                 int height, int width, int twice, bf16* out, int threads) {
    const int zoom = twice ? 2 : 1;
    const Strips strips(height * zoom, width * zoom, images, threads);
    const Convolution job{{{x, nullptr, channels, 0}, height, width, bool(twice), nullptr, nullptr},
                          weights, bias, nullptr, out, out_channels};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int i = 0; i < images * strips.per_image; ++i) convolve(job, strips, i);
}

}  // extern "C"

// Convolutions in bfloat16 by the tile instructions of AMX, which multiply 16 pixels of 32 channels by 16 filters at once.
//
// Products cost so little by them that a 3x3 convolution is computed by its definition: what Winograd's transforms would
// take is more than the multiplications that they would save.
#pragma once

#include <algorithm>
#include <cstring>

#include "winograd.h"

#ifdef __AMX_BF16__
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

namespace {

constexpr int TILE_ROWS = 16, TILE_DEPTH = 32;  // channels; 16 where they are no multiple of 32

// Whether Linux lets this process have the tiles' registers, which enlarge the state of each thread by 8 KiB.
inline bool tiles_allowed() {
    constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool allowed = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
    return allowed;
}

std::atomic<bool> tiles_wanted{true};

inline bool tiles_used() { return tiles_wanted && tiles_allowed(); }

// bfloat16 whose convolutions are computed by tiles.
struct Tiled : Bfloat16 {
    static constexpr int OUTPUTS = 1;  // the definition: every pixel is for itself
};

// The shapes of a thread's tiles as long as this lives: of 0 to 3, the sums of 2 x 2 tiles, of 4 and 5, rows of pixels,
// and of 6 and 7, weights, whose rows are pairs of input channels.
class TileShapes {
   public:
    explicit TileShapes(bool deep) : depth(deep ? TILE_DEPTH : TILE_DEPTH / 2) {
        struct alignas(64) {
            uint8_t palette = 1, start = 0, reserved[14] = {};
            uint16_t bytes_in_row[16] = {};
            uint8_t rows[16] = {};
        } shapes;
        for (int i = 0; i < 8; ++i) {
            shapes.rows[i] = uint8_t(i < 6 ? TILE_ROWS : depth / 2);
            shapes.bytes_in_row[i] = uint16_t(i == 4 || i == 5 ? 2 * depth : 64);
        }
        written(&shapes);
        _tile_loadconfig(&shapes);
    }
    ~TileShapes() { _tile_release(); }
    TileShapes(const TileShapes&) = delete;
    TileShapes& operator=(const TileShapes&) = delete;

    // Has all that was computed so far written to memory: compilers do not know what the tile instructions read.
    static void written(const void* p) { asm volatile("" ::"r"(p) : "memory"); }

    const int depth;  // input channels that one instruction multiplies
};

// Packed weights as tiles read them: numbers from a pair of input channels to the next one, and from 16 filters to the
// next 16.
struct TileWeights {
    const uint16_t* first;
    size_t pair, next;
};

// sums += R tiles of rows of a (row stride lda) times N tiles of weights. The tiles' numbers have to be written out.
template <int R, int N>
inline void multiply_tiles(const uint16_t* a, size_t lda, int channels, int depth, TileWeights weights) {
    const size_t row = 2 * lda, pair = 2 * weights.pair;  // bytes
    const uint16_t* w = weights.first;
    for (int k = 0; k < channels; k += depth, w += depth / 2 * weights.pair) {
        _tile_loadd(6, w, pair);
        _tile_loadd(4, a + k, row);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (N > 1) {
            _tile_loadd(7, w + weights.next, pair);
            _tile_dpbf16ps(1, 4, 7);
        }
        if constexpr (R > 1) {
            _tile_loadd(5, a + TILE_ROWS * lda + k, row);
            _tile_dpbf16ps(2, 5, 6);
            if constexpr (N > 1) _tile_dpbf16ps(3, 5, 7);
        }
    }
}

// What `add` adds to R x N tiles of zeros, (R * 16 rows, N vectors).
template <int R, int N, typename F>
inline void sum_tiles(float* sums, F add) {
    constexpr size_t row = N * 64, below = TILE_ROWS * N * LANES;  // bytes, numbers
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    add();
    _tile_stored(0, sums, row);
    if constexpr (N > 1) _tile_stored(1, sums + LANES, row);
    if constexpr (R > 1) _tile_stored(2, sums + below, row);
    if constexpr (R > 1 && N > 1) _tile_stored(3, sums + below + LANES, row);
}

// Calls f with one and two, for tiles one after the other: of `rows` rows, or of so many vectors.
template <int EACH, typename F>
inline void by_two(size_t rows, F f) {
    for (size_t at = 0; at < rows; at += 2 * EACH)
        if (rows - at > EACH)
            f(at, std::integral_constant<int, 2>{});
        else
            f(at, std::integral_constant<int, 1>{});
}

// Some rows of which tiles read `wanted`: where they lie, or a copy where fewer are left.
inline const uint16_t* enough_rows(const uint16_t* x, int channels, size_t rows, size_t wanted, Scratch<uint16_t>& memory) {
    if (rows >= wanted || !channels) return x;
    uint16_t* const copy = memory.take(wanted * channels);
    std::memcpy(copy, x, rows * channels * sizeof *x);
    std::memset(copy + rows * channels, 0, (wanted - rows) * channels * sizeof *x);
    TileShapes::written(copy);
    return copy;
}

template <>
inline void pointwise<Tiled>(const Pair<uint16_t>& x, size_t begin, size_t end, const uint16_t* weights, const float* bias,
                             const uint16_t* residual, uint16_t* out, int out_channels) {
    static thread_local Scratch<uint16_t> first_memory, second_memory;
    alignas(64) float sums[4 * TILE_ROWS * LANES];
    const TileShapes shapes(x.first_channels % TILE_DEPTH == 0 && x.second_channels % TILE_DEPTH == 0);
    by_two<TILE_ROWS>(end - begin, [&](size_t offset, auto tiles) {
        constexpr int R = decltype(tiles)::value;
        const size_t p = begin + offset, rows = std::min<size_t>(R * TILE_ROWS, end - p);
        const auto from = [&](const uint16_t* tensor, int channels, Scratch<uint16_t>& memory) {
            return enough_rows(tensor + p * channels, channels, rows, R * TILE_ROWS, memory);
        };
        const uint16_t* const first = from(x.first, x.first_channels, first_memory);
        const uint16_t* const second = from(x.second, x.second_channels, second_memory);
        for_blocks(out_channels, x.channels(), [&](auto count, int c, size_t start) {
            constexpr int WIDTH = decltype(count)::value * LANES;
            by_two<LANES>(WIDTH, [&](size_t n, auto vectors) {
                constexpr int N = decltype(vectors)::value;
                const uint16_t* const w = weights + start + 2 * n;
                sum_tiles<R, N>(sums, [&] {
                    multiply_tiles<R, N>(first, x.first_channels, x.first_channels, shapes.depth,
                                         {w, 2 * WIDTH, 2 * LANES});
                    multiply_tiles<R, N>(second, x.second_channels, x.second_channels, shapes.depth,
                                         {w + size_t(x.first_channels) * WIDTH, 2 * WIDTH, 2 * LANES});
                });
                for (size_t r = 0; r < rows; ++r)
                    for (int i = 0; i < N * LANES; i += LANES) {
                        const size_t channel = c + n + i, at = (p + r) * out_channels + channel;
                        Vector value = load(sums + r * N * LANES + i) + load(bias + channel);
                        if (residual) value += Tiled::read(residual + at);
                        Tiled::write(out + at, value);
                    }
            });
        });
    });
}

// Filters in the order in which `convolve` reads them: by 16 outputs, by their nine positions, by pairs of input channels.
template <>
inline void pack<Tiled>(const Filters& filters, uint16_t* packed) {
    const int channels = filters.channels;
    for (int o = 0; o < filters.out_channels; o += LANES)
        for (int k = 0; k < 9; ++k, packed += channels * LANES)
            for (int i = 0; i < channels; ++i) {
                Vector x;
                uint16_t numbers[LANES];
                for (int lane = 0; lane < LANES; ++lane) x[lane] = *filters.at(o + lane, i, k);
                Tiled::write(numbers, x);
                for (int lane = 0; lane < LANES; ++lane) packed[(i / 2 * LANES + lane) * 2 + i % 2] = numbers[lane];
            }
}

// R tiles of pixels and N vectors of channels, with bias and residual, into some rows of an image. Its pixels are numbered
// with one column more than there is, of which nothing is written.
template <int R, int N>
void write_pixels(const Convolution<uint16_t>& job, const float* sums, size_t first_pixel, int width, int rows,
                  size_t first_row, size_t channel) {
    Vector bias[N];
    for (int n = 0; n < N; ++n) bias[n] = job.bias ? load(job.bias + channel + n * LANES) : Vector{};
    int row = int(first_pixel / (width + 1)), column = int(first_pixel % (width + 1));
    for (int r = 0; r < R * TILE_ROWS && row < rows; ++r) {
        if (column == width) {
            column = 0, ++row;
            continue;
        }
        const size_t start = ((first_row + row) * width + column) * job.out_channels + channel;
        for (int n = 0; n < N; ++n) {
            const Vector value = load(sums + (r * N + n) * LANES) + bias[n];
            const size_t at = start + n * LANES;
            Tiled::write(job.out + at, job.residual ? value + Tiled::read(job.residual + at) : value);
        }
        ++column;
    }
}

// Some rows of an image, whose pixels with a border lie at `input`. Between the end of a row and the beginning of the next
// one lies one column of zeros: it is the border of both, and the neighbours of consecutive pixels are consecutive, too.
inline void convolve_rows(const Convolution<uint16_t>& job, const uint16_t* input, int width, int rows, size_t first_row,
                          int depth) {
    alignas(64) float sums[4 * TILE_ROWS * LANES];
    const int channels = job.source.images.channels();
    const size_t filter = size_t(channels) * LANES;  // weights of 16 outputs and a position
    by_two<LANES>(job.out_channels, [&](size_t channel, auto vectors) {
        constexpr int N = decltype(vectors)::value;
        const uint16_t* const weights = job.weights + channel / LANES * 9 * filter;
        by_two<TILE_ROWS>(size_t(rows) * (width + 1), [&](size_t pixel, auto tiles) {
            constexpr int R = decltype(tiles)::value;
            sum_tiles<R, N>(sums, [&] {
                for (int k = 0; k < 9; ++k) {
                    const size_t neighbour = pixel + k / 3 * (width + 1) + k % 3;
                    multiply_tiles<R, N>(input + neighbour * channels, channels, channels, depth,
                                         {weights + k * filter, 2 * LANES, 9 * filter});
                }
            });
            write_pixels<R, N>(job, sums, pixel, width, rows, first_row, channel);
        });
    });
}

template <>
inline void convolve<Tiled>(const Convolution<uint16_t>& job, const Strips& strips, int index) {
    static thread_local Scratch<uint16_t> memory;
    const int channels = job.source.images.channels(), width = strips.tiles, height = strips.tile_rows;
    const size_t line = size_t(width + 1) * channels, beyond = size_t(2 * TILE_ROWS) * channels;
    const TileShapes shapes(channels % TILE_DEPTH == 0);
    for (int row = strips.first(index), after; row < strips.last(index); row = after) {
        const int image = row / height;
        after = std::min(strips.last(index), (image + 1) * height);  // what lies in the same image
        const int lines = after - row + 2;
        uint16_t* const input = memory.take(lines * line + beyond);
        for (int i = 0; i < lines; ++i)
            read_row<Tiled, Tiled>(job.source, image, row % height - 1 + i, 1, width + 1, input + i * line);
        std::memset(input + lines * line, 0, beyond * sizeof *input);
        TileShapes::written(input);
        convolve_rows(job, input, width, after - row, row, shapes.depth);
    }
}

}  // namespace
#endif

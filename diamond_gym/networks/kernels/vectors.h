// Vectors of the machine's own width, and the two kinds of numbers that the kernels know.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
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
    static constexpr int OUTPUTS = 4;     // of a Winograd tile, per side
    static constexpr int DEPTH = 1;       // input channels that one instruction multiplies
    static constexpr int EXP_DEGREE = 6;  // relative error 1e-7
    static float number(float x) { return x; }
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
    static constexpr int OUTPUTS = 2;  // the larger tiles' transforms are too much for eight bits of precision
    static constexpr int DEPTH = 2;
    static constexpr int EXP_DEGREE = 4;  // 4e-5: far below bfloat16's 4e-3
    static float number(uint16_t x) {
        const uint32_t bits = uint32_t(x) << 16;
        float number;
        std::memcpy(&number, &bits, sizeof number);
        return number;
    }
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

}  // namespace

// Residual blocks of a U-Net on CPUs, in float32 on any and in bfloat16 on those with AVX512-BF16, and 3x3 convolutions
// with their gradients, in float32.
//
// Of a residual block, group norm, its condition and the SiLU are applied while the inputs are read, bias and residual
// while the outputs are written, so that a feature map is read once and written once per convolution. Sums are float32 in
// either arithmetic; what lies between is of the element's type.
//
// Tensors are images next to each other, each of H rows of W pixels of C channels (torch's channels_last). All numbers of
// channels are multiples of 16.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "winograd.h"

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
                for_blocks(b.out_channels, x.channels(), [&](auto count, int c, size_t start) {
                    pointwise_block<E, decltype(count)::value>(x, total * i / jobs, total * (i + 1) / jobs,
                                                               weights_proj + start, b.bias_proj + c, out + c,
                                                               b.out_channels);
                });
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

template <typename E>
void convolution(const Convolution<typename E::Number>& job, int images, int threads) {
    const int zoom = job.source.twice ? 2 : 1;
    const Strips strips(job.source.height * zoom, job.source.width * zoom, images, E::OUTPUTS,
                        job.source.images.channels(), threads);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int i = 0; i < strips.count(); ++i) convolve<E>(job, strips, i);
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

// Numbers in a transformed tile of such images.
int64_t positions(const Tensor& x) { return x.scalar_type() == ScalarType::Float ? 36 : 16; }

// See the schema of `resblock` below: x and skip lie side by side, the block's scales and shifts begin at `place`.
Tensor resblock_of(Tensor images, MaybeTensor more, Tensor modulation, Tensor weights1, Tensor bias1, Tensor weights2,
                   Tensor bias2, MaybeTensor weights_proj, MaybeTensor bias_proj, int64_t groups1, int64_t groups2,
                   int64_t place) {
    const Tensor x = channels_last(images), skip = more ? channels_last(*more) : x;
    STD_TORCH_CHECK(skip.scalar_type() == x.scalar_type() && skip.size(0) == x.size(0) && skip.size(2) == x.size(2) &&
                        skip.size(3) == x.size(3),
                    "x and its skip are of one type, number and size");
    const int64_t skipped = more ? skip.size(1) : 0, in = x.size(1) + skipped, out_channels = bias1.numel();
    check_weights(x, weights1, bias1, positions(x) * in);
    check_weights(x, weights2, bias2, positions(x) * out_channels);
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

template <typename T>
Source<T> plain(const Tensor& x, bool twice = false) {
    return {{numbers<T>(x), nullptr, int(x.size(1)), 0}, int(x.size(2)), int(x.size(3)), twice, nullptr, nullptr};
}

// See the schema of `upsample` below.
Tensor upsample_of(Tensor images, Tensor weights, Tensor bias) {
    const Tensor x = channels_last(images);
    check_weights(x, weights, bias, positions(x) * x.size(1));
    const Tensor out = new_images(x, bias.numel(), 2);
    with_element(x, [&](auto element) {
        using E = decltype(element);
        using T = typename E::Number;
        const Convolution<T> job{plain<T>(x, true), numbers<T>(weights),
                                 numbers<float>(bias), nullptr,
                                 static_cast<T*>(out.mutable_data_ptr()), int(bias.numel())};
        convolution<E>(job, int(x.size(0)), int(torch::stable::get_num_threads()));
    });
    return out;
}

// The filters (O, I, 3, 3) of a convolution in float32, or of its way back.
Filters filters_of(const Tensor& weight, bool turned) {
    STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Float && weight.dim() == 4 && weight.size(0) % 16 == 0 &&
                        weight.size(1) % 16 == 0 && weight.size(2) == 3 && weight.size(3) == 3,
                    "filters are float32 (O, I, 3, 3), O and I multiples of 16");
    const int o = turned, i = !turned;
    return {static_cast<float*>(weight.data_ptr()),
            {weight.stride(o), weight.stride(i), weight.stride(2), weight.stride(3)},
            int(weight.size(o)),
            int(weight.size(i)),
            turned};
}

// See the schema of `pack` below.
Tensor pack_of(Tensor weight, bool bfloat16) {
    const Filters filters = filters_of(weight, false);
    const auto packed = [&](auto element, ScalarType type, int64_t positions) {
        using E = decltype(element);
        const Tensor out = torch::stable::empty({positions * weight.size(0) * weight.size(1)}, type);
        pack<E>(filters, static_cast<typename E::Number*>(out.mutable_data_ptr()));
        return out;
    };
#ifdef __AVX512BF16__
    if (bfloat16) return packed(Bfloat16{}, ScalarType::BFloat16, 16);
#endif
    STD_TORCH_CHECK(!bfloat16, "the kernels know no bfloat16 here");
    return packed(Float32{}, ScalarType::Float, 36);
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

STABLE_TORCH_LIBRARY(diamond_gym, m) {
    // conv2(silu(norm2(conv1(silu(norm1(cat(x, skip))))))) + proj(cat(x, skip)): (B, out_channels, H, W)
    m.def(
        "resblock(Tensor x, Tensor? skip, Tensor modulation, Tensor weights1, Tensor bias1, Tensor weights2, "
        "Tensor bias2, Tensor? weights_proj, Tensor? bias_proj, int groups1, int groups2, int place) -> Tensor");
    // A 3x3 convolution with padding of x read twice as large: (B, out_channels, 2H, 2W)
    m.def("upsample(Tensor x, Tensor weights, Tensor bias) -> Tensor");
    // The filters of a 3x3 convolution (O, I, 3, 3), float32, as the operators above take them, in one dimension
    m.def("pack(Tensor weight, bool bfloat16) -> Tensor");
    // A 3x3 convolution with padding: x (B, I, H, W) -> (B, O, H, W), float32, and its gradients
    m.def("conv3x3(Tensor x, Tensor weight, Tensor bias) -> Tensor");
    m.def("conv3x3_input_gradient(Tensor gradient, Tensor weight) -> Tensor");
    m.def("conv3x3_weight_gradient(Tensor x, Tensor gradient, Tensor weight) -> Tensor");
    m.def("block_width() -> int");
    m.def("has_bfloat16() -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(diamond_gym, CPU, m) {
    m.impl("resblock", TORCH_BOX(&resblock_of));
    m.impl("upsample", TORCH_BOX(&upsample_of));
    m.impl("pack", TORCH_BOX(&pack_of));
    m.impl("conv3x3", TORCH_BOX(&conv3x3_of));
    m.impl("conv3x3_input_gradient", TORCH_BOX(&input_gradient_of));
    m.impl("conv3x3_weight_gradient", TORCH_BOX(&weight_gradient_of));
}

STABLE_TORCH_LIBRARY_IMPL(diamond_gym, CompositeImplicitAutograd, m) {
    m.impl("block_width", TORCH_BOX(&block_width));
    m.impl("has_bfloat16", TORCH_BOX(&has_bfloat16));
}

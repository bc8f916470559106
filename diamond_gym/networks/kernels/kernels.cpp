// The operators of dreams and of training on CPUs: residual blocks, attention and the convolutions of a U-Net, in float32
// on any and in bfloat16 on those with AVX512-BF16 or AMX, and 3x3 convolutions with their gradients, in float32. Sums are
// float32 in either arithmetic; what lies between is of the element's type.
//
// Tensors are images next to each other, each of H rows of W pixels of C channels (torch's channels_last). All numbers of
// channels are multiples of 16.

#include "attention.h"
#include "doors.h"
#include "gradients.h"
#include "random.h"
#include "resblock.h"
#include "tensors.h"

namespace {

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

// See the schema of `use_amx` below.
bool use_amx(bool wanted) {
#ifdef __AMX_BF16__
    tiles_wanted = wanted;
#endif
    return has_amx();
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

// See the schema of `attention` below.
Tensor attention_of(Tensor images, Tensor norm, int64_t groups, Tensor weights_qkv, Tensor bias_qkv, Tensor weights_out,
                    Tensor bias_out) {
    const Tensor x = channels_last(images), out = new_images(x, x.size(1), 1);
    const int64_t channels = x.size(1);
    check_weights(x, weights_qkv, bias_qkv, channels);
    check_weights(x, weights_out, bias_out, channels);
    check_norm(x, norm, groups);
    STD_TORCH_CHECK(bias_qkv.numel() == 3 * channels && bias_out.numel() == channels,
                    "queries, keys, values and results are as wide as the images");
    const Attention job{numbers<float>(norm),  int(groups), weights_qkv.const_data_ptr(), weights_out.const_data_ptr(),
                        numbers<float>(bias_qkv), numbers<float>(bias_out), int(channels)};
    with_element(x, [&](auto element) {
        using E = decltype(element);
        using T = typename E::Number;
        attention<E>(job, numbers<T>(x), int(x.size(0)), size_t(x.size(2)) * x.size(3),
                     static_cast<T*>(out.mutable_data_ptr()), int(torch::stable::get_num_threads()));
    });
    return out;
}

// See the schema of `halve` below.
Tensor halve_of(Tensor images, Tensor weights, Tensor bias) {
    const Tensor x = channels_last(images);
    check_weights(x, weights, bias, 9 * x.size(1));
    const Tensor out = new_images(x.size(0), bias.numel(), (x.size(2) + 1) / 2, (x.size(3) + 1) / 2, x.scalar_type());
    with_element(x, [&](auto element) {
        using E = decltype(element);
        using T = typename E::Number;
        halve<E>(numbers<T>(x), int(x.size(0)), int(x.size(2)), int(x.size(3)), int(x.size(1)), numbers<T>(weights),
                 numbers<float>(bias), static_cast<T*>(out.mutable_data_ptr()), int(bias.numel()),
                 int(torch::stable::get_num_threads()));
    });
    return out;
}

// See the schema of `enter` below.
Tensor enter_of(Tensor images, int64_t side, Tensor weights, Tensor bias, MaybeTensor more) {
    STD_TORCH_CHECK(images.dim() == 4 && images.scalar_type() == ScalarType::Float && side > 0,
                    "frames are float32 (B, C, H, W)");
    const Tensor x = torch::stable::contiguous(images);
    const Frames frames{int(x.size(0)), int(x.size(1)), int(x.size(2)), int(x.size(3)), int(side)};
    const int64_t wide = (frames.patch() + 15) / 16 * 16;
    const Tensor patches = new_images(x.size(0), wide, frames.rows(), frames.columns(), weights.scalar_type());
    check_weights(patches, weights, bias, positions(patches) * wide);
    const Tensor out = new_images(patches, bias.numel(), 1);
    const Tensor added = more ? channels_last(*more) : out;
    STD_TORCH_CHECK(same_images(added, out), "what is added has the size and type of the result");
    const int threads = int(torch::stable::get_num_threads());
    with_element(patches, [&](auto element) {
        using E = decltype(element);
        using T = typename E::Number;
        to_patches<E>(frames, numbers<float>(x), int(wide), static_cast<T*>(patches.mutable_data_ptr()), threads);
        const Convolution<T> job{plain<T>(patches), numbers<T>(weights), numbers<float>(bias),
                                 more ? numbers<T>(added) : nullptr, static_cast<T*>(out.mutable_data_ptr()),
                                 int(bias.numel())};
        convolution<E>(job, int(x.size(0)), threads);
    });
    return out;
}

// See the schema of `leave` below.
Tensor leave_of(Tensor images, Tensor norm, int64_t groups, Tensor weights, Tensor bias, int64_t side, int64_t channels,
                int64_t height, int64_t width) {
    static thread_local Scratch<float> memory;
    const Tensor x = channels_last(images);
    check_weights(x, weights, bias, positions(x) * x.size(1));
    check_norm(x, norm, groups);
    const Frames frames{int(x.size(0)), int(channels), int(height), int(width), int(side)};
    STD_TORCH_CHECK(side > 0 && frames.rows() == x.size(2) && frames.columns() == x.size(3) &&
                        frames.patch() <= bias.numel(),
                    "the frames' patches have the size of the images");
    const Tensor patches = new_images(x, bias.numel(), 1);
    const Tensor out = torch::stable::empty({x.size(0), channels, height, width}, ScalarType::Float);
    const int threads = int(torch::stable::get_num_threads());
    float* const scale = memory.take(2 * size_t(x.size(0) * x.size(1)));
    float* const shift = scale + x.size(0) * x.size(1);
    with_element(x, [&](auto element) {
        using E = decltype(element);
        using T = typename E::Number;
        Source<T> source = plain<T>(x);
        source.scale = scale, source.shift = shift;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (int i = 0; i < int(x.size(0)); ++i)
            norm_of<E>(source.images, i, size_t(x.size(2)) * x.size(3), int(groups), numbers<float>(norm),
                       scale + i * x.size(1), shift + i * x.size(1));
        T* const made = static_cast<T*>(patches.mutable_data_ptr());
        convolution<E>({source, numbers<T>(weights), numbers<float>(bias), nullptr, made, int(bias.numel())},
                       int(x.size(0)), threads);
        from_patches<E>(frames, made, int(bias.numel()), static_cast<float*>(out.mutable_data_ptr()), threads);
    });
    return out;
}

// See the schema of `frame` below.
Tensor frame_of(Tensor image, Tensor last, bool nearest, double threshold) {
    STD_TORCH_CHECK(image.dim() == 4 && image.scalar_type() == ScalarType::Float && last.dim() == 4 &&
                        same_images(image, last),
                    "images and the last frames are float32 (B, C, H, W)");
    const Tensor x = torch::stable::contiguous(image), before = torch::stable::contiguous(last);
    const Frames frames{int(x.size(0)), int(x.size(1)), int(x.size(2)), int(x.size(3)), 1};
    const Tensor out = torch::stable::empty({x.size(0), x.size(1), x.size(2), x.size(3)}, ScalarType::Float);
    on_levels(frames, numbers<float>(x), numbers<float>(before), nearest, float(threshold),
              static_cast<float*>(out.mutable_data_ptr()), int(torch::stable::get_num_threads()));
    return out;
}

// See the schema of `words` below.
Tensor words_of(Tensor seed, Tensor draw, int64_t blocks, int64_t stream) {
    const Tensor keys = torch::stable::contiguous(seed), draws = torch::stable::contiguous(draw);
    STD_TORCH_CHECK(keys.scalar_type() == ScalarType::Long && draws.scalar_type() == ScalarType::Long &&
                        keys.dim() == 1 && draws.dim() == 1 && keys.numel() == draws.numel() && blocks > 0,
                    "seeds and draws are int64 (B,)");
    const Tensor out = torch::stable::empty({keys.numel(), 4 * blocks}, ScalarType::Long);
    for (int64_t row = 0; row < keys.numel(); ++row)
        philox(uint64_t(numbers<int64_t>(keys)[row]), uint64_t(numbers<int64_t>(draws)[row]), uint32_t(stream), blocks,
               static_cast<int64_t*>(out.mutable_data_ptr()) + row * 4 * blocks);
    return out;
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
#ifdef __AMX_BF16__
    if (bfloat16 && has_amx()) return packed(Tiled{}, ScalarType::BFloat16, 9);
#endif
#ifdef __AVX512BF16__
    if (bfloat16) return packed(Bfloat16{}, ScalarType::BFloat16, 16);
#endif
    STD_TORCH_CHECK(!bfloat16, "the kernels know no bfloat16 here");
    return packed(Float32{}, ScalarType::Float, 36);
}

}  // namespace

STABLE_TORCH_LIBRARY(diamond_gym, m) {
    // conv2(silu(norm2(conv1(silu(norm1(cat(x, skip))))))) + proj(cat(x, skip)): (B, out_channels, H, W)
    m.def(
        "resblock(Tensor x, Tensor? skip, Tensor modulation, Tensor weights1, Tensor bias1, Tensor weights2, "
        "Tensor bias2, Tensor? weights_proj, Tensor? bias_proj, int groups1, int groups2, int place) -> Tensor");
    // A 3x3 convolution with padding of x read twice as large: (B, out_channels, 2H, 2W)
    m.def("upsample(Tensor x, Tensor weights, Tensor bias) -> Tensor");
    // norm(x) + out(attention(qkv(norm(x)))), heads of 8 channels; norm: scales, then shifts: (B, C, H, W)
    m.def(
        "attention(Tensor x, Tensor norm, int groups, Tensor weights_qkv, Tensor bias_qkv, Tensor weights_out, "
        "Tensor bias_out) -> Tensor");
    // A 3x3 convolution with padding and stride 2: (B, out_channels, H / 2, W / 2), rounded up
    m.def("halve(Tensor x, Tensor weights, Tensor bias) -> Tensor");
    // A 3x3 convolution of the patches of frames, float32 (B, C, H, W), `side` pixels a side, plus `more`, if any:
    // (B, out_channels, H / side, W / side), rounded up, of the weights' type
    m.def("enter(Tensor x, int side, Tensor weights, Tensor bias, Tensor? more) -> Tensor");
    // The way back, conv(silu(norm(x))): frames, float32 (B, channels, height, width)
    m.def(
        "leave(Tensor x, Tensor norm, int groups, Tensor weights, Tensor bias, int side, int channels, int height, "
        "int width) -> Tensor");
    // Images, float32 (B, C, H, W), on 8-bit levels, with the last frames' pixels where these change by less than
    // `threshold` levels; 0: none are kept
    m.def("frame(Tensor image, Tensor last, bool nearest, float threshold) -> Tensor");
    // Random 32-bit words of rows with a seed and a draw each, int64 (B,): int64 (B, 4 * blocks)
    m.def("words(Tensor seed, Tensor draw, int blocks, int stream) -> Tensor");
    // The filters of a 3x3 convolution (O, I, 3, 3), float32, as the operators above take them, in one dimension
    m.def("pack(Tensor weight, bool bfloat16) -> Tensor");
    // A 3x3 convolution with padding: x (B, I, H, W) -> (B, O, H, W), float32, and its gradients
    m.def("conv3x3(Tensor x, Tensor weight, Tensor bias) -> Tensor");
    m.def("conv3x3_input_gradient(Tensor gradient, Tensor weight) -> Tensor");
    m.def("conv3x3_weight_gradient(Tensor x, Tensor gradient, Tensor weight) -> Tensor");
    m.def("block_width() -> int");
    m.def("has_bfloat16() -> bool");
    m.def("has_amx() -> bool");
    // Whether AMX is used from now on, if it is wanted; what was packed before does not fit if that changes
    m.def("use_amx(bool wanted) -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(diamond_gym, CPU, m) {
    m.impl("resblock", TORCH_BOX(&resblock_of));
    m.impl("upsample", TORCH_BOX(&upsample_of));
    m.impl("attention", TORCH_BOX(&attention_of));
    m.impl("halve", TORCH_BOX(&halve_of));
    m.impl("enter", TORCH_BOX(&enter_of));
    m.impl("leave", TORCH_BOX(&leave_of));
    m.impl("frame", TORCH_BOX(&frame_of));
    m.impl("words", TORCH_BOX(&words_of));
    m.impl("pack", TORCH_BOX(&pack_of));
    m.impl("conv3x3", TORCH_BOX(&conv3x3_of));
    m.impl("conv3x3_input_gradient", TORCH_BOX(&input_gradient_of));
    m.impl("conv3x3_weight_gradient", TORCH_BOX(&weight_gradient_of));
}

STABLE_TORCH_LIBRARY_IMPL(diamond_gym, CompositeImplicitAutograd, m) {
    m.impl("block_width", TORCH_BOX(&block_width));
    m.impl("has_bfloat16", TORCH_BOX(&has_bfloat16));
    m.impl("has_amx", TORCH_BOX(&has_amx));
    m.impl("use_amx", TORCH_BOX(&use_amx));
}

// Torch's tensors as the kernels take them.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "amx.h"

namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

// Whether products in bfloat16 are computed by AMX.
bool has_amx() {
#ifdef __AMX_BF16__
    return tiles_used();
#else
    return false;
#endif
}

// Calls `run` with the element of a tensor's type.
template <typename Run>
void with_element(const Tensor& x, Run run) {
    if (x.scalar_type() == ScalarType::Float) return run(Float32{});
#ifdef __AMX_BF16__
    if (x.scalar_type() == ScalarType::BFloat16 && has_amx()) return run(Tiled{});
#endif
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

Tensor new_images(int64_t images, int64_t channels, int64_t height, int64_t width, ScalarType type) {
    return torch::stable::empty({images, channels, height, width}, type, std::nullopt, std::nullopt, std::nullopt,
                                MemoryFormat::ChannelsLast);
}

Tensor new_images(const Tensor& like, int64_t channels, int zoom) {
    return new_images(like.size(0), channels, zoom * like.size(2), zoom * like.size(3), like.scalar_type());
}

// Whether both have one type and size.
bool same_images(const Tensor& x, const Tensor& y) {
    return x.scalar_type() == y.scalar_type() && x.size(0) == y.size(0) && x.size(1) == y.size(1) &&
           x.size(2) == y.size(2) && x.size(3) == y.size(3);
}

// Refuses others than a group norm's scales and shifts of the images' channels.
void check_norm(const Tensor& x, const Tensor& norm, int64_t groups) {
    STD_TORCH_CHECK(norm.scalar_type() == ScalarType::Float && norm.is_contiguous() && norm.numel() == 2 * x.size(1) &&
                        groups > 0 && x.size(1) % groups == 0,
                    "a norm is float32 (2 * channels), and groups divide the channels");
}

// Refuses others than packed weights of the images' type and a bias in float32, of so many multiplications an output.
void check_weights(const Tensor& x, const Tensor& weights, const Tensor& bias, int64_t multiplications) {
    STD_TORCH_CHECK(weights.scalar_type() == x.scalar_type() && weights.is_contiguous() && bias.is_contiguous() &&
                        bias.scalar_type() == ScalarType::Float && bias.numel() % 16 == 0 &&
                        weights.numel() == bias.numel() * multiplications,
                    "these weights are not packed for these images");
}

// Numbers of a packed 3x3 filter for such images: of a transformed tile, or the nine themselves.
int64_t positions(const Tensor& x) {
    if (x.scalar_type() == ScalarType::Float) return 36;
    return has_amx() ? 9 : 16;
}

template <typename T>
Source<T> plain(const Tensor& x, bool twice = false) {
    return {{numbers<T>(x), nullptr, int(x.size(1)), 0}, int(x.size(2)), int(x.size(3)), twice, nullptr, nullptr};
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

}  // namespace

#pragma once

#include "ops/adamw.h"

// The kernels behind ops/adamw.h; a build without CUDA has none and refuses.
namespace dga {

void adamw_update_cuda(const AdamWRange& range, const AdamWStep& step, uint64_t rounding_key);
at::Tensor sum_of_squares_cuda(const at::Tensor& gradient);
GradientNorm gradient_norm_cuda(const at::Tensor& squares, const at::Tensor& losses, double clip_norm, at::Tensor stop);

}  // namespace dga

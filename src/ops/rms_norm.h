#pragma once

#include <ATen/core/Tensor.h>

namespace dga {

/// weight * x / sqrt(mean(x^2) + eps) over the last dimension (Zhang and Sennrich 2019). x [..., N], weight [N], one
/// floating type. The mean and the quotient are computed in fp32 (double for double) and the quotient is rounded to
/// x's type before it is multiplied, as Hugging Face LLaMA does. Differentiable in both.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

}  // namespace dga

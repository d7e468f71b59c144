#pragma once

#include <ATen/core/Tensor.h>

namespace dga {

/// Rotary position embedding (Su et al. 2021) in the half-split form: x * cos + (-x2, x1) * sin for the halves x1, x2
/// of the head dim. x [B, L, H, D], D even; cos, sin [B or 1, L, D]; returns x's type. Products are computed in fp32
/// (double for double). Differentiable in x.
at::Tensor apply_rope(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

}  // namespace dga

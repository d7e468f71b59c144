#pragma once

#include <ATen/core/Tensor.h>

namespace dga {

/// silu(gate) * up, element by element (Shazeer 2020); both of one shape and floating type. Differentiable in both.
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

}  // namespace dga

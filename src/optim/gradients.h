#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace dga {

/// Square root of the sum of squares over all gradients. A non-finite gradient gives a non-finite norm.
double global_norm(const std::vector<at::Tensor>& gradients);

/// Factor that brings a gradient of norm `norm` down to `clip_norm`: min(1, clip_norm / (norm + 1e-6)) as PyTorch's
/// clip_grad_norm_ has it; 1 where clip_norm is 0.
double clip_factor(double norm, double clip_norm);

}  // namespace dga

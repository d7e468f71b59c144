#pragma once

#include <ATen/core/Tensor.h>

/// weight * x / sqrt(mean(x^2) + eps) over the last dimension (Zhang and Sennrich 2019). Shapes: R rows, N width; all
/// tensors of one floating type. The mean and the quotient are computed in fp32 (double for double) and the quotient is
/// rounded to x's type before it is multiplied, as Hugging Face LLaMA does. On a GPU a kernel computes bf16 with N a
/// multiple of 8 up to 8192; LibTorch's operations all else.
namespace dga {

/// The norm of x [..., N], weight [N]; differentiable in both.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

/// sum = x + residual rounded to its type (x itself without a residual), and the norm of that. No autograd.
struct AddedNorm {
  at::Tensor sum;          // [R, N]
  at::Tensor normed;       // [R, N]
  at::Tensor inverse_rms;  // [R] fp32 or double
};
/// With a residual the sum is written to `sum`, contiguous, where that is given.
AddedNorm add_rms_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight, double eps,
                       const at::Tensor& sum = {});

/// `normed` again, from what add_rms_norm returned.
at::Tensor normed_again(const at::Tensor& sum, const at::Tensor& inverse_rms, const at::Tensor& weight, double eps);

/// What the gradients of add_rms_norm are made from.
struct NormBackward {
  at::Tensor grad_normed;  // [R, N]
  at::Tensor grad_sum;     // [R, N]: what reaches the sum besides; may be undefined
  at::Tensor sum, inverse_rms;
  bool wants_weight = true;
  at::Tensor out = {};  // [R, N] contiguous: where the sum's gradient is written; new memory if undefined
};
struct NormGradients {
  at::Tensor sum;     // [R, N], of x and of the residual alike
  at::Tensor weight;  // [N] in fp32 (double for double), summed over the rows in a fixed order; undefined if unwanted
};
NormGradients rms_norm_backward(const NormBackward& given, const at::Tensor& weight);

}  // namespace dga

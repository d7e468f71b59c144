#pragma once

#include <ATen/core/Tensor.h>

/// SwiGLU (Shazeer 2020): silu(gate) * up, element by element; both of one shape and floating type. On a GPU a kernel
/// computes bf16 with a count that is a multiple of 8; LibTorch's operations all else. No autograd.
namespace dga {

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

/// The gradients of swiglu by its arguments, and its result again, which the gradient of the next product needs.
struct SwigluGradients {
  at::Tensor gate, up, product;
};

/// Whether swiglu_backward leaves its arguments alone, or they are given up and their memory may hold the results.
enum class Operands { kept, consumed };

/// `grad` is the gradient of the product; silu(gate) is computed again.
SwigluGradients swiglu_backward(const at::Tensor& grad, const at::Tensor& gate, const at::Tensor& up,
                                Operands operands);

}  // namespace dga

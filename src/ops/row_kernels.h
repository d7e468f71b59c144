#pragma once

#include <ATen/core/Tensor.h>

#include "ops/cross_entropy.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/swiglu.h"

// The CUDA kernels behind rms_norm.h, rope.h, swiglu.h and cross_entropy.h, which choose them with the first functions
// here and check the arguments. Internal to src/ops.
namespace dga::row_kernels {

/// Whether the kernels compute on these tensors: bf16 (logits: fp32) on a GPU and sizes that they take. LibTorch's
/// operations compute all else.
bool take_norm(const at::Tensor& x);         // [R, N]
bool take_rope(const at::Tensor& x);         // [B, L, heads, D]
bool take_swiglu(const at::Tensor& x);       // any shape
bool take_logits(const at::Tensor& logits);  // [C, V]

AddedNorm add_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight, double eps,
                   const at::Tensor& sum);
NormGradients norm_backward(const NormBackward& given, const at::Tensor& weight);
QueryKey rope(const QueryKey& in, const QueryKey& out, const at::Tensor& cos, const at::Tensor& sin, Rotation rotation);
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
SwigluGradients swiglu_backward(const at::Tensor& grad, const at::Tensor& gate, const at::Tensor& up,
                                const SwigluGradients& out);
TokenLosses cross_entropy(const at::Tensor& logits, const at::Tensor& labels, double z_loss,
                          std::optional<at::ScalarType> gradient);

}  // namespace dga::row_kernels

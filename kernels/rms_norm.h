#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

/// RMSNorm (Zhang and Sennrich 2019) with the residual added in the same pass, and its gradients. R rows, N width; bf16
/// rows are contiguous and 16-byte aligned. Sums and quotients are fp32; the quotient is rounded to bf16 before it is
/// multiplied by the weight, as Hugging Face LLaMA does.
namespace dga::kernels {

/// N is a multiple of 8 up to 8192.
bool rms_norm_supports(int64_t width);

/// normed = weight * s / sqrt(mean(s^2) + eps), s = x + residual rounded to bf16, or x without a residual.
/// Moves 4 R N bytes, 8 R N with a residual.
struct RmsNormForwardParams {
  int64_t rows = 0, width = 0;
  const void* x = nullptr;         // [R, N] bf16
  const void* residual = nullptr;  // [R, N] bf16, or null
  const void* weight = nullptr;    // [N] bf16
  void* sum = nullptr;             // [R, N] bf16: s; only with a residual, may be x's or the residual's memory
  void* normed = nullptr;          // [R, N] bf16
  float* inverse_rms = nullptr;    // [R]
  float eps = 0;
};
void rms_norm_forward(const RmsNormForwardParams& params, cudaStream_t stream);

/// With n = s * inverse_rms and a = grad_normed * weight: grad_sum = (a - n mean(a n)) * inverse_rms + grad_residual,
/// grad_weight = sum over the rows of grad_normed * n, in a fixed order. Moves 6 R N bytes, 8 R N with grad_residual.
struct RmsNormBackwardParams {
  int64_t rows = 0, width = 0;
  const void* grad_normed = nullptr;    // [R, N] bf16
  const void* grad_residual = nullptr;  // [R, N] bf16: what reaches the sum otherwise; or null
  const void* sum = nullptr;            // [R, N] bf16
  const void* weight = nullptr;         // [N] bf16
  const float* inverse_rms = nullptr;   // [R]
  void* grad_sum = nullptr;             // [R, N] bf16; may be the memory of grad_normed or grad_residual
  float* grad_weight = nullptr;         // [N], or null
  void* workspace = nullptr;
};
size_t rms_norm_backward_workspace_bytes(int64_t rows, int64_t width);
void rms_norm_backward(const RmsNormBackwardParams& params, cudaStream_t stream);

}  // namespace dga::kernels

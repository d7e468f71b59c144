#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

/// SwiGLU (Shazeer 2020), silu(gate) * up, and its gradients. Tensors are bf16, contiguous and 16-byte aligned, of
/// `count` elements; arithmetic is fp32 with one rounding at the end.
namespace dga::kernels {

/// `count` is a multiple of 8.
bool swiglu_supports(int64_t count);

/// Moves 6 bytes an element.
struct SwigluForwardParams {
  int64_t count = 0;
  const void* gate = nullptr;
  const void* up = nullptr;
  void* product = nullptr;  // may be the memory of gate or up
};
void swiglu_forward(const SwigluForwardParams& params, cudaStream_t stream);

/// With s = sigmoid(gate): grad_gate = grad * up * s (1 + gate (1 - s)), grad_up = grad * gate * s, and the product
/// again. Moves 12 bytes an element. Every output may be the memory of any input.
struct SwigluBackwardParams {
  int64_t count = 0;
  const void* grad = nullptr;  // of the product
  const void* gate = nullptr;
  const void* up = nullptr;
  void* grad_gate = nullptr;
  void* grad_up = nullptr;
  void* product = nullptr;
};
void swiglu_backward(const SwigluBackwardParams& params, cudaStream_t stream);

}  // namespace dga::kernels

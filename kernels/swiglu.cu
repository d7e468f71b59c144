#include "kernels/common/bf16.cuh"
#include "kernels/common/check.h"
#include "kernels/swiglu.h"

// A thread takes 8 elements, which it has read before it writes any: outputs may share memory with inputs.
namespace dga::kernels {
namespace {

constexpr int kThreads = 256;

// The quick division gives 0 for a divisor that overflowed.
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

__global__ void __launch_bounds__(kThreads) forward_kernel(const __grid_constant__ SwigluForwardParams params) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= params.count / 8) return;
  const Floats8 gate = unpack(static_cast<const uint4*>(params.gate)[index]);
  const Floats8 up = unpack(static_cast<const uint4*>(params.up)[index]);
  Floats8 product;
#pragma unroll
  for (int j = 0; j < 8; ++j) product.v[j] = gate.v[j] * sigmoid(gate.v[j]) * up.v[j];
  static_cast<uint4*>(params.product)[index] = pack(product);
}

__global__ void __launch_bounds__(kThreads) backward_kernel(const __grid_constant__ SwigluBackwardParams params) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= params.count / 8) return;
  const Floats8 grad = unpack(static_cast<const uint4*>(params.grad)[index]);
  const Floats8 gate = unpack(static_cast<const uint4*>(params.gate)[index]);
  const Floats8 up = unpack(static_cast<const uint4*>(params.up)[index]);
  Floats8 grad_gate, grad_up, product;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float s = sigmoid(gate.v[j]), silu = gate.v[j] * s;
    grad_gate.v[j] = grad.v[j] * up.v[j] * fmaf(silu, 1.0f - s, s);
    grad_up.v[j] = grad.v[j] * silu;
    product.v[j] = silu * up.v[j];
  }
  static_cast<uint4*>(params.grad_gate)[index] = pack(grad_gate);
  static_cast<uint4*>(params.grad_up)[index] = pack(grad_up);
  static_cast<uint4*>(params.product)[index] = pack(product);
}

unsigned blocks_for(int64_t count) { return static_cast<unsigned>((count / 8 + kThreads - 1) / kThreads); }

}  // namespace

bool swiglu_supports(int64_t count) { return count % 8 == 0; }

void swiglu_forward(const SwigluForwardParams& params, cudaStream_t stream) {
  if (params.count == 0) return;
  forward_kernel<<<blocks_for(params.count), kThreads, 0, stream>>>(params);
  DGA_CUDA_CHECK(cudaGetLastError());
}

void swiglu_backward(const SwigluBackwardParams& params, cudaStream_t stream) {
  if (params.count == 0) return;
  backward_kernel<<<blocks_for(params.count), kThreads, 0, stream>>>(params);
  DGA_CUDA_CHECK(cudaGetLastError());
}

}  // namespace dga::kernels

#include "kernels/common/check.h"
#include "kernels/common/eight.cuh"
#include "kernels/common/reduce.cuh"
#include "kernels/gradient_norm.h"

// One read of the gradient. Eight squares add up in fp32, everything above them in double, in a fixed tree.
namespace dga::kernels {
namespace {

constexpr int kThreads = 512;
constexpr int kBlocks = 1024;  // not the device's number of processors, or the order would depend on it

template <class Gradient>
__global__ void __launch_bounds__(kThreads)
    partial_sums_kernel(const Gradient* __restrict__ gradient, int64_t count, double* __restrict__ partial) {
  constexpr int64_t kStride = static_cast<int64_t>(kBlocks) * kThreads * 8;
  double sum = 0.0;
  for (int64_t at = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 8; at < count; at += kStride) {
    float g[8];
    load_eight(gradient + at, g);
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) squares = __fmaf_rn(g[i], g[i], squares);
    sum += static_cast<double>(squares);
  }
  __shared__ double shared[kThreads / 32];
  sum = block_sum<kThreads>(sum, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) total_kernel(const double* __restrict__ partial, double* sum) {
  double value = 0.0;
  for (int i = threadIdx.x; i < kBlocks; i += kThreads) value += partial[i];
  __shared__ double shared[kThreads / 32];
  value = block_sum<kThreads>(value, shared);
  if (threadIdx.x == 0) *sum = value;
}

__global__ void clip_kernel(const __grid_constant__ GradientClipParams p) {
  const double norm = sqrt(*p.sum_of_squares);
  bool finite = isfinite(norm);
  for (int64_t i = 0; i < p.loss_count; ++i) finite = finite && isfinite(p.losses[i]);
  *p.norm = norm;
  *p.factor = p.clip_norm == 0.0 ? 1.0f : static_cast<float>(fmin(1.0, p.clip_norm / (norm + 1e-6)));
  if (!finite) *p.stop = 1;
}

}  // namespace

size_t sum_of_squares_workspace_bytes() { return kBlocks * sizeof(double); }

void sum_of_squares(const SumOfSquaresParams& params, cudaStream_t stream) {
  auto* partial = static_cast<double*>(params.workspace);
  if (params.gradient_type == GradientType::fp32) {
    partial_sums_kernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<const float*>(params.gradient), params.count,
                                                          partial);
  } else {
    partial_sums_kernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<const __nv_bfloat16*>(params.gradient),
                                                          params.count, partial);
  }
  DGA_CUDA_CHECK(cudaGetLastError());
  total_kernel<<<1, kThreads, 0, stream>>>(partial, params.sum);
  DGA_CUDA_CHECK(cudaGetLastError());
}

void gradient_clip(const GradientClipParams& params, cudaStream_t stream) {
  clip_kernel<<<1, 1, 0, stream>>>(params);
  DGA_CUDA_CHECK(cudaGetLastError());
}

}  // namespace dga::kernels

#pragma once

#include <cstdint>

// Reductions over a warp and over a block, in an order that the block's shape alone fixes.
namespace dga::kernels {

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
  return value;
}

/// Sum over the kThreads threads of the block, known to all of them. `shared` holds a number a warp; successive calls
/// need different ones, or a barrier between them.
template <int kThreads, class T>
__device__ __forceinline__ T block_sum(T value, T* shared) {
  constexpr int kWarps = kThreads / 32;
  static_assert(kThreads % 32 == 0 && kWarps <= 32);
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  const int lane = threadIdx.x % 32;
  return warp_sum(lane < kWarps ? shared[lane] : T(0));
}

}  // namespace dga::kernels

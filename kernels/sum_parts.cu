#include "kernels/common/check.h"
#include "kernels/common/eight.cuh"
#include "kernels/sum_parts.h"

// One read of the parts and one write of the sum. It runs beside matrix products, which wait for a multiprocessor that
// it holds: many short blocks.
namespace dga::kernels {
namespace {

constexpr int kThreads = 256;

/// Eight sums a thread, or one where a part or the sum is not aligned for eight.
template <int kNumbers>
__global__ void __launch_bounds__(kThreads)
    sum_parts_kernel(const __nv_bfloat16* __restrict__ parts, int64_t part_count, int64_t count, float* sum) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kNumbers;
  if (at >= count) return;
  if constexpr (kNumbers == 8) {
    float total[8] = {}, part[8];
    for (int64_t p = 0; p < part_count; ++p) {
      load_eight(parts + p * count + at, part);
#pragma unroll
      for (int i = 0; i < 8; ++i) total[i] += part[i];
    }
    store_eight(sum + at, total);
  } else {
    float total = 0.0f;
    for (int64_t p = 0; p < part_count; ++p) total += __bfloat162float(parts[p * count + at]);
    sum[at] = total;
  }
}

}  // namespace

void sum_parts(const SumPartsParams& params, cudaStream_t stream) {
  if (params.count == 0) return;
  const auto* parts = static_cast<const __nv_bfloat16*>(params.parts);
  const auto blocks = [&](int64_t numbers) {
    return static_cast<unsigned>((params.count + numbers * kThreads - 1) / (numbers * kThreads));
  };
  if (params.count % 8 == 0 && reinterpret_cast<uintptr_t>(params.sum) % 16 == 0) {
    sum_parts_kernel<8><<<blocks(8), kThreads, 0, stream>>>(parts, params.part_count, params.count, params.sum);
  } else {
    sum_parts_kernel<1><<<blocks(1), kThreads, 0, stream>>>(parts, params.part_count, params.count, params.sum);
  }
  DGA_CUDA_CHECK(cudaGetLastError());
}

}  // namespace dga::kernels

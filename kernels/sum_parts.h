#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace dga::kernels {

/// sum[i] = the sum over p of parts[p * count + i], in fp32 and in the order of p: what `part_count` ranks sent this
/// one.
struct SumPartsParams {
  const void* parts = nullptr;  // bf16 [part_count, count], 16-byte aligned
  int64_t part_count = 0;
  int64_t count = 0;
  float* sum = nullptr;  // [count]
};
void sum_parts(const SumPartsParams& params, cudaStream_t stream);

}  // namespace dga::kernels

#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

/// Rotary position embedding (Su et al. 2021) of queries and keys in one launch, in the half-split form of Hugging
/// Face: (x1, x2) -> (x1 cos1 - x2 sin1, x2 cos2 + x1 sin2) for the halves of the head dim.
namespace dga::kernels {

/// D is a multiple of 16, up to 512.
bool rope_supports(int64_t head_dim);

/// The gradient takes the transposed rotation: (x1 cos1 + x2 sin2, x2 cos2 - x1 sin1).
enum class RopeDirection { forward, backward };

/// Tokens of one tensor, bf16, T = B L of them; a head's D elements are contiguous and 16-byte aligned.
struct RopeTensor {
  const void* in = nullptr;  // [T, heads, D]
  void* out = nullptr;       // [T, heads, D] contiguous; may be `in`
  int64_t heads = 0;
  int64_t token_stride = 0, head_stride = 0;  // of `in`, in elements, multiples of 8
};

/// Moves 4 T (H + G) D bytes and the tables.
struct RopeParams {
  RopeTensor query, key;
  int64_t batch = 0, length = 0, head_dim = 0;
  const float* cos = nullptr;      // [B or 1, L, D]
  const float* sin = nullptr;      // [B or 1, L, D]
  int64_t table_batch_stride = 0;  // in elements; 0 where the rows share one table
  RopeDirection direction = RopeDirection::forward;
};
void rope(const RopeParams& params, cudaStream_t stream);

}  // namespace dga::kernels

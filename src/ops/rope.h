#pragma once

#include <ATen/core/Tensor.h>

/// Rotary position embedding (Su et al. 2021) in the half-split form: x * cos + (-x2, x1) * sin for the halves x1, x2
/// of the head dim. Products are computed in fp32 (double for double). cos, sin [B or 1, L, D]. On a GPU one kernel
/// rotates queries and keys in bf16 with D a multiple of 16; LibTorch's operations all else. No autograd.
namespace dga {

struct QueryKey {
  at::Tensor query;  // [B, L, H, D], D even
  at::Tensor key;    // [B, L, G, D]
};

/// The rotation, or its transpose, which takes the gradients back.
enum class Rotation { forward, backward };

/// The rotated queries and keys; `x` is given up, and its memory may hold the result.
QueryKey apply_rope(QueryKey x, const at::Tensor& cos, const at::Tensor& sin);

/// The gradients of apply_rope's arguments, in memory of their own.
QueryKey rope_backward(const QueryKey& gradients, const at::Tensor& cos, const at::Tensor& sin);

}  // namespace dga

#pragma once

#include <ATen/ATen.h>

#include <algorithm>

#include "kernels/attention/attention.h"

// How tensors are handed to the kernels.
namespace dga {

/// [B, rows, heads, D]
inline kernels::TensorRef tokens_ref(const at::Tensor& x) {
  return {x.data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
}

/// [B, heads, rows, D]
inline kernels::TensorRef list_ref(const at::Tensor& x) {
  return {x.data_ptr(), x.stride(0), x.stride(2), x.stride(1)};
}

/// x, or a copy where the copy engine cannot load it: it needs a contiguous last dimension and 16-byte steps.
inline at::Tensor loadable(const at::Tensor& x) {
  const bool aligned = x.stride(3) == 1 && x.stride(0) % 8 == 0 && x.stride(1) % 8 == 0 && x.stride(2) % 8 == 0 &&
                       reinterpret_cast<uintptr_t>(x.data_ptr()) % 16 == 0;
  return aligned ? x : x.contiguous();
}

inline at::Tensor bytes_on(const at::Tensor& like, size_t size) {
  return at::empty({static_cast<int64_t>(std::max<size_t>(size, 1))}, like.options().dtype(at::kByte));
}

/// Of q [B, L, H, D] and k [B, L, G, D], without lists.
inline kernels::Shape shape_of(const at::Tensor& q, const at::Tensor& k) {
  return {q.size(0), q.size(1), q.size(2), k.size(2), q.size(3), 0, 0, 0};
}

}  // namespace dga

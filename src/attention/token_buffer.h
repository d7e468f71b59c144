#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace dga {

/// Rows [heads, D] of consecutive tokens that grows at the end and shrinks at the front, for caches.
class TokenBuffer {
 public:
  /// Copies the tokens of x [T, heads, D] to the end.
  void append(const at::Tensor& x);
  /// Forgets the `count` oldest tokens.
  void drop_front(int64_t count);
  /// The tokens held, [size, heads, D]; valid until the next append.
  at::Tensor tokens() const;
  int64_t size() const { return end_ - begin_; }

 private:
  at::Tensor storage_;  // [capacity, heads, D]
  int64_t begin_ = 0;
  int64_t end_ = 0;
};

}  // namespace dga

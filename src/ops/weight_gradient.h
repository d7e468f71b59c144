#pragma once

#include <ATen/core/Tensor.h>

namespace dga {

/// The gradient of a weight [out, in] of a linear map, summed over parts of the tokens: sum of dy^T x.
/// The sum of several parts is kept in fp32 (double for double) and rounded to the weight's type once, at the end; a
/// single part is one product in the weight's type.
class WeightGradient {
 public:
  /// `parts` is how often add() will be called.
  explicit WeightGradient(int64_t parts) : parts_(parts) {}

  /// dy [T, out], x [T, in], of one floating type.
  void add(const at::Tensor& dy, const at::Tensor& x);
  /// The sum, in the type of dy and x or, of several parts, the type that it was summed in.
  at::Tensor sum() const { return sum_; }

 private:
  int64_t parts_;
  at::Tensor sum_;  // [out, in]
};

}  // namespace dga

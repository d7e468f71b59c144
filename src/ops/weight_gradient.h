#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "ops/gradient_sink.h"

namespace dga {

/// The gradient of a weight [out, in] of a linear map, summed over parts of the tokens: sum of dy^T x. With a sink the
/// products add to it themselves where its type allows that; the others' sum is added at the end. The sum of several
/// parts is kept in fp32 (double for double) and rounded once; a single part is one product, which a sink of a wider
/// type on a GPU takes unrounded.
class WeightGradient {
 public:
  /// `parts` is how often add() will be called.
  explicit WeightGradient(int64_t parts, std::shared_ptr<GradientSink> sink = nullptr)
      : parts_(parts), sink_(std::move(sink)) {}

  /// dy [T, out], x [T, in], of one floating type.
  void add(const at::Tensor& dy, const at::Tensor& x);
  /// The sum, in the type that it was made in; undefined where it went to the sink or nothing was added.
  at::Tensor finish();

 private:
  int64_t parts_;
  std::shared_ptr<GradientSink> sink_;
  at::Tensor sum_;  // [out, in]; undefined while all went to the sink
};

/// dy^T x as the gradient of `weight`, in its type: undefined where it went to the weight's sink.
at::Tensor weight_gradient(const at::Tensor& weight, const at::Tensor& dy, const at::Tensor& x);

}  // namespace dga

#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

namespace dga {

/// Where the gradients of one parameter add up over the backward passes of a step: a view into a flat buffer, of the
/// parameter's shape, perhaps of a wider type.
struct GradientSink {
  at::Tensor sum;
  bool filled = false;  // whether anything arrived since the sum was last empty; before that its content means nothing

  void add(const at::Tensor& gradient);
};

/// From now on backward() hands the parameter's gradients to the sink, as soon as each is made, instead of leaving them
/// in grad(). An operation may also write into the sink itself and return no gradient.
void attach_gradient_sink(const at::Tensor& parameter, std::shared_ptr<GradientSink> sink);
void detach_gradient_sink(const at::Tensor& parameter);
/// The parameter's sink; null where it has none.
std::shared_ptr<GradientSink> gradient_sink(const at::Tensor& parameter);

}  // namespace dga

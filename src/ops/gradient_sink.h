#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>

namespace dga {

/// Where the gradients of one parameter add up over the backward passes of a step: a view into a flat buffer, of the
/// parameter's shape, perhaps of another type.
struct GradientSink {
  at::Tensor sum;       // undefined where `provide_memory` is to give it
  bool filled = false;  // whether anything arrived since the sum was last empty; before that its content means nothing
  std::function<void()> provide_memory;  // makes `sum` defined; null where it always is
  std::function<void()> on_complete;     // once in a backward pass, when nothing more will arrive in it; may be null

  /// The sum, to be written to.
  const at::Tensor& memory() {
    if (!sum.defined()) provide_memory();
    return sum;
  }
  void add(const at::Tensor& gradient);
};

/// From now on backward() hands the parameter's gradients to the sink, as soon as each is made, instead of leaving them
/// in grad(). An operation may also write into the sink itself and return no gradient. A backward pass that does not
/// reach the parameter does not complete it.
void attach_gradient_sink(const at::Tensor& parameter, std::shared_ptr<GradientSink> sink);
void detach_gradient_sink(const at::Tensor& parameter);
/// The parameter's sink; null where it has none.
std::shared_ptr<GradientSink> gradient_sink(const at::Tensor& parameter);

}  // namespace dga

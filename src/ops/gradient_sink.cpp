#include "ops/gradient_sink.h"

#include <ATen/ATen.h>
#include <torch/autograd.h>

#include "util/error.h"

namespace dga {
namespace {

namespace autograd = torch::autograd;

/// Runs once in a backward pass, when every use of the parameter has delivered, be it a gradient or (where an operation
/// wrote into the sink itself) nothing. The pass has put the sum into grad(), which was undefined before, so nothing
/// was copied yet.
struct SinkHook final : autograd::PostAccumulateGradHook {
  explicit SinkHook(std::shared_ptr<GradientSink> to) : sink(std::move(to)) {}
  void operator()(const autograd::Variable& parameter) override {
    const at::NoGradGuard no_grad;
    at::Tensor& arrived = parameter.mutable_grad();
    if (arrived.defined()) {
      sink->add(arrived);
      arrived.reset();
    }
    if (sink->on_complete) sink->on_complete();
  }
  std::shared_ptr<GradientSink> sink;
};

}  // namespace

void GradientSink::add(const at::Tensor& gradient) {
  if (filled) {
    sum.add_(gradient);
  } else {
    memory().copy_(gradient);
  }
  filled = true;
}

void attach_gradient_sink(const at::Tensor& parameter, std::shared_ptr<GradientSink> sink) {
  DGA_CHECK(!sink->sum.defined() || sink->sum.sizes() == parameter.sizes(), "the sink of a parameter ",
            parameter.sizes(), " is ", sink->sum.sizes());
  DGA_CHECK(parameter.is_leaf() && !parameter.grad().defined(), "a parameter with a gradient gets no sink");
  autograd::impl::set_post_acc_grad_hooks(parameter, std::make_unique<SinkHook>(std::move(sink)));
}

void detach_gradient_sink(const at::Tensor& parameter) { autograd::impl::set_post_acc_grad_hooks(parameter, nullptr); }

std::shared_ptr<GradientSink> gradient_sink(const at::Tensor& parameter) {
  if (!parameter.requires_grad()) return nullptr;
  const auto* hook = dynamic_cast<const SinkHook*>(autograd::impl::post_acc_grad_hooks(parameter).get());
  return hook == nullptr ? nullptr : hook->sink;
}

}  // namespace dga

#include "ops/gradient_sink.h"

#include <ATen/ATen.h>
#include <torch/autograd.h>

#include "util/error.h"

namespace dga {
namespace {

namespace autograd = torch::autograd;

/// Runs behind the parameter's node of the graph. Every use of the parameter is an edge to that node, and the engine
/// runs it once, when all edges have delivered, be it a gradient or (where an operation wrote into the sink itself)
/// nothing. The hook below runs only for the former.
struct CompletionHook final : autograd::FunctionPostHook {
  explicit CompletionHook(std::shared_ptr<GradientSink> of) : sink(std::move(of)) {}
  autograd::variable_list operator()(const autograd::variable_list& outputs, const autograd::variable_list&) override {
    sink->on_complete();
    return outputs;
  }
  std::shared_ptr<GradientSink> sink;
};

/// Runs when a backward pass has put its gradient into grad(), which was undefined before, so nothing was copied yet.
struct SinkHook final : autograd::PostAccumulateGradHook {
  explicit SinkHook(std::shared_ptr<GradientSink> to) : sink(std::move(to)) {}
  void operator()(const autograd::Variable& parameter) override {
    const at::NoGradGuard no_grad;
    at::Tensor& arrived = parameter.mutable_grad();
    sink->add(arrived);
    arrived.reset();
  }
  std::shared_ptr<GradientSink> sink;
  std::shared_ptr<autograd::Node> node;  // with the CompletionHook; graphs hold it only while they live
  uintptr_t completion = 0;
};

SinkHook* sink_hook(const at::Tensor& parameter) {
  return dynamic_cast<SinkHook*>(autograd::impl::post_acc_grad_hooks(parameter).get());
}

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
  auto hook = std::make_unique<SinkHook>(sink);
  if (sink->on_complete) {
    hook->node = autograd::impl::grad_accumulator(parameter);
    hook->completion = hook->node->add_post_hook(std::make_unique<CompletionHook>(std::move(sink)));
  }
  autograd::impl::set_post_acc_grad_hooks(parameter, std::move(hook));
}

void detach_gradient_sink(const at::Tensor& parameter) {
  const SinkHook* hook = sink_hook(parameter);
  if (hook != nullptr && hook->node) hook->node->del_post_hook(hook->completion);
  autograd::impl::set_post_acc_grad_hooks(parameter, nullptr);
}

std::shared_ptr<GradientSink> gradient_sink(const at::Tensor& parameter) {
  if (!parameter.requires_grad()) return nullptr;
  const SinkHook* hook = sink_hook(parameter);
  return hook == nullptr ? nullptr : hook->sink;
}

}  // namespace dga

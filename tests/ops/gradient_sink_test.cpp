#include "ops/gradient_sink.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>

#include "ops/weight_gradient.h"

namespace dga {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// x w^T, whose weight gradient goes to the sink by itself.
struct SinkingProduct : torch::autograd::Function<SinkingProduct> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight) {
    ctx->save_for_backward({x, weight});
    return at::mm(x, weight.t());
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    return {at::mm(grads[0], saved[1]), weight_gradient(saved[1], grads[0], saved[0])};
  }
};

/// A weight [2, 2] of ones whose sink counts how often it is complete, and what it held then.
struct Watched {
  at::Tensor weight = at::ones({2, 2}).requires_grad_();
  std::shared_ptr<GradientSink> sink = std::make_shared<GradientSink>();
  int completions = 0;
  at::Tensor when_complete;

  explicit Watched() {
    sink->sum = at::full({2, 2}, -1.0F);
    sink->on_complete = [this] {
      ++completions;
      when_complete = sink->sum.clone();
    };
    attach_gradient_sink(weight, sink);
  }
  ~Watched() { detach_gradient_sink(weight); }
};

const at::Tensor kInput = at::eye(2);

TEST(GradientSink, IsCompleteOnceAfterAnOrdinaryGradient) {
  Watched w;
  (w.weight * 3).sum().backward();
  EXPECT_EQ(w.completions, 1);
  EXPECT_TRUE(at::equal(w.when_complete, at::full({2, 2}, 3.0F)));
  (w.weight * 3).sum().backward();
  EXPECT_EQ(w.completions, 2);
  EXPECT_TRUE(at::equal(w.when_complete, at::full({2, 2}, 6.0F)));
}

TEST(GradientSink, IsCompleteOnceWhereTheOperationWroteIntoIt) {
  Watched w;
  SinkingProduct::apply(kInput, w.weight).sum().backward();
  EXPECT_EQ(w.completions, 1);
  EXPECT_TRUE(at::equal(w.when_complete, at::ones({2, 2})));
  EXPECT_FALSE(w.weight.grad().defined());
}

TEST(GradientSink, IsCompleteOnceAfterAllUses) {
  for (const bool sinking_first : {true, false}) {
    Watched w;
    // As with a tied embedding: one use writes into the sink, the other leaves its gradient to the hook. The one made
    // last delivers first.
    const at::Tensor inner = sinking_first ? w.weight * 3 : SinkingProduct::apply(kInput, w.weight);
    const at::Tensor outer = sinking_first ? SinkingProduct::apply(kInput, w.weight) : w.weight * 3;
    (inner + outer).sum().backward();
    EXPECT_EQ(w.completions, 1);
    EXPECT_TRUE(at::equal(w.when_complete, at::full({2, 2}, 4.0F)));
  }
  Watched chained;
  SinkingProduct::apply(SinkingProduct::apply(kInput, chained.weight), chained.weight).sum().backward();
  EXPECT_EQ(chained.completions, 1);
  EXPECT_TRUE(at::equal(chained.when_complete, at::full({2, 2}, 4.0F)));
}

TEST(GradientSink, IsNotCompleteWhereNoGradientComes) {
  Watched w, other;
  (other.weight * 2).sum().backward();
  EXPECT_EQ(w.completions, 0);
  EXPECT_EQ(other.completions, 1);
  EXPECT_FALSE(w.sink->filled);
}

TEST(GradientSink, AsksForMemoryBeforeTheFirstWrite) {
  const at::Tensor weight = at::ones({2, 2}).requires_grad_();
  const auto sink = std::make_shared<GradientSink>();
  int asked = 0;
  sink->provide_memory = [&] {
    ++asked;
    sink->sum = at::full({2, 2}, -1.0F);
  };
  attach_gradient_sink(weight, sink);
  for (const bool sinking : {true, false}) {
    sink->sum.reset();
    sink->filled = false;
    const at::Tensor loss = sinking ? SinkingProduct::apply(kInput, weight) : weight * 1;
    (loss + weight).sum().backward();
    EXPECT_TRUE(at::equal(sink->sum, at::full({2, 2}, 2.0F)));
  }
  EXPECT_EQ(asked, 2);
  detach_gradient_sink(weight);
}

TEST(GradientSink, LeavesTheParameterAloneWhenDetached) {
  Watched w;
  detach_gradient_sink(w.weight);
  w.weight.sum().backward();
  EXPECT_TRUE(w.weight.grad().defined());
  EXPECT_EQ(w.completions, 0);
  w.weight.mutable_grad().reset();
}

}  // namespace
}  // namespace dga

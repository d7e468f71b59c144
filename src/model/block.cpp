#include "model/block.h"

#include <ATen/ATen.h>
#include <torch/autograd.h>

#include "model/after_attention.h"
#include "model/before_attention.h"

// A layer is three nodes of autograd: the part before attention, attention, the part behind it. The two outer nodes
// make again in their backward passes what they did not keep; attention keeps what its own backward pass needs, so
// neither ever runs it again. Under Recompute::block one node holds all three and keeps the layer's input alone.

namespace dga {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct ContextHolder : torch::CustomClassHolder {
  explicit ContextHolder(const BlockContext& c) : context(c) {}
  BlockContext context;
};

void keep_context(AutogradContext* ctx, const BlockContext& context) {
  ctx->saved_data["context"] = c10::IValue::make_capsule(c10::make_intrusive<ContextHolder>(context));
}

c10::intrusive_ptr<ContextHolder> kept_context(AutogradContext* ctx) {
  return c10::static_intrusive_pointer_cast<ContextHolder>(ctx->saved_data["context"].toCapsule());
}

/// The weights kBlockWeights[first ...] of which `tensors` holds `count` from `offset` on.
struct WeightRange {
  size_t first, count, offset;

  BlockWeights read(at::TensorList tensors) const {
    BlockWeights weights;
    for (size_t i = 0; i < count; ++i) weights.*kBlockWeights[first + i].member = tensors[offset + i];
    return weights;
  }
  WantedWeights wanted(AutogradContext* ctx) const {
    WantedWeights wanted;
    for (size_t i = 0; i < count; ++i) wanted.*kBlockWeights[first + i].wanted = ctx->needs_input_grad(offset + i);
    return wanted;
  }
  void append(variable_list& tensors, const BlockWeights& weights) const {
    for (size_t i = 0; i < count; ++i) tensors.push_back(weights.*kBlockWeights[first + i].member);
  }
};
constexpr WeightRange kBefore{0, kWeightsBeforeAttention, 1};  // behind x
constexpr WeightRange kAfter{kWeightsBeforeAttention, kBlockWeights.size() - kWeightsBeforeAttention, 2};
constexpr WeightRange kWhole{0, kBlockWeights.size(), 1};

/// Inputs: x and the weights before attention. Outputs: x, query, key, value; x passes through so that its gradient
/// from the residual is added within the norm's backward pass.
class BeforeAttentionNode : public torch::autograd::Function<BeforeAttentionNode> {
 public:
  static variable_list forward(AutogradContext* ctx, at::TensorList inputs, const BlockContext* context) {
    const AttentionInputs result = before_attention(inputs[0], kBefore.read(inputs), *context);
    variable_list saved = inputs.vec();
    saved.push_back(result.inverse_rms);
    ctx->save_for_backward(saved);
    keep_context(ctx, *context);
    return {inputs[0], result.query, result.key, result.value};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const BeforeAttentionBackward given{saved[0], saved.back(), grads[0], grads[1], grads[2], grads[3]};
    BlockWeights gradients;
    variable_list result = {before_attention_backward(given, kBefore.read(saved), kept_context(ctx)->context,
                                                      kBefore.wanted(ctx), gradients)};
    kBefore.append(result, gradients);
    result.emplace_back();  // the context's
    return result;
  }
};

/// Inputs: x, the attention's output and the weights behind attention.
class AfterAttentionNode : public torch::autograd::Function<AfterAttentionNode> {
 public:
  static at::Tensor forward(AutogradContext* ctx, at::TensorList inputs, const BlockContext* context,
                            Recompute recompute) {
    const AfterAttention result = after_attention(inputs[0], inputs[1], kAfter.read(inputs), *context, recompute);
    variable_list saved = inputs.vec();
    const AfterAttentionKept& kept = result.kept;
    saved.insert(saved.end(), {kept.sum, kept.inverse_rms, kept.gate, kept.up});
    ctx->save_for_backward(saved);
    keep_context(ctx, *context);
    return result.output;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const auto* kept = &saved[saved.size() - 4];
    const AfterAttentionBackward given{saved[0], saved[1], {kept[0], kept[1], kept[2], kept[3]}, grads[0]};
    BlockWeights gradients;
    const AfterAttentionGradients inputs =
        after_attention_backward(given, kAfter.read(saved), kept_context(ctx)->context, kAfter.wanted(ctx), gradients);
    variable_list result = {inputs.x, inputs.attended};
    kAfter.append(result, gradients);
    result.resize(result.size() + 2);  // the context's and the plan's
    return result;
  }
};

struct BeforeAndAttention {
  at::Tensor x, attended;
};

/// With autograd where it is on.
BeforeAndAttention until_attention(const at::Tensor& x, const BlockWeights& weights, const BlockContext& context) {
  variable_list inputs = {x};
  kBefore.append(inputs, weights);
  const variable_list parts = BeforeAttentionNode::apply(at::TensorList(inputs), &context);
  return {parts[0], context.attention->forward(parts[1], parts[2], parts[3], *context.layout)};
}

/// Without autograd; keeps nothing.
at::Tensor whole_layer(const at::Tensor& x, const BlockWeights& weights, const BlockContext& context) {
  const BeforeAndAttention until = until_attention(x, weights, context);
  return after_attention(x, until.attended, weights, context, Recompute::block).output;
}

/// Inputs: x and all weights.
class RecomputedBlock : public torch::autograd::Function<RecomputedBlock> {
 public:
  static at::Tensor forward(AutogradContext* ctx, at::TensorList inputs, const BlockContext* context,
                            const std::shared_ptr<HostStore>& store) {
    ctx->save_for_backward(inputs.slice(kWhole.offset).vec());
    keep_context(ctx, *context);
    // Detached: what the store holds must not hold the graph that holds the store.
    ctx->saved_data["slot"] = static_cast<int64_t>(store->put(inputs[0].detach()));
    ctx->saved_data["store"] = c10::IValue::make_capsule(c10::make_intrusive<StoreHolder>(store));
    return whole_layer(inputs[0], kWhole.read(inputs), *context);
  }

  // Runs the layer up to attention again, this time with autograd; behind it only what the gradients need.
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto holder = kept_context(ctx);
    const BlockContext& context = holder->context;
    const auto store = c10::static_intrusive_pointer_cast<StoreHolder>(ctx->saved_data["store"].toCapsule())->store;
    // Leaves of a graph of their own, so that the gradients come back here instead of into the parameters.
    variable_list leaves = {store->take(static_cast<size_t>(ctx->saved_data["slot"].toInt()))};
    for (const at::Tensor& weight : ctx->get_saved_variables()) leaves.push_back(weight.detach());
    std::vector<size_t> wanted_before;
    for (size_t i = 0; i < kBefore.offset + kBefore.count; ++i) {
      if (!ctx->needs_input_grad(i)) continue;
      leaves[i].set_requires_grad(true);
      wanted_before.push_back(i);
    }
    const BlockWeights weights = kWhole.read(leaves);
    BeforeAndAttention until;
    {
      const at::AutoGradMode with_graph(true);
      until = until_attention(leaves[0], weights, context);
    }
    BlockWeights gradients;
    const AfterAttentionGradients after = after_attention_backward(
        {until.x.detach(), until.attended.detach(), {}, grads[0]}, weights, context, kWhole.wanted(ctx), gradients);
    variable_list result = {at::Tensor()};
    kWhole.append(result, gradients);
    if (!wanted_before.empty()) {
      variable_list wanted;
      for (const size_t i : wanted_before) wanted.push_back(leaves[i]);
      const variable_list found =
          torch::autograd::grad({until.x, until.attended}, wanted, {after.x, after.attended}, /*retain_graph=*/false,
                                /*create_graph=*/false, /*allow_unused=*/true);
      for (size_t i = 0; i < found.size(); ++i) result[wanted_before[i]] = found[i];
    }
    result.resize(result.size() + 2);  // the context's and the store's
    return result;
  }

 private:
  struct StoreHolder : torch::CustomClassHolder {
    explicit StoreHolder(std::shared_ptr<HostStore> s) : store(std::move(s)) {}
    std::shared_ptr<HostStore> store;
  };
};

}  // namespace

at::Tensor block_forward(const at::Tensor& x, const BlockWeights& weights, const BlockContext& context,
                         const BlockPlan& plan) {
  if (!at::GradMode::is_enabled()) return whole_layer(x, weights, context);
  if (plan.recompute == Recompute::block) {
    variable_list inputs = {x};
    kWhole.append(inputs, weights);
    return RecomputedBlock::apply(at::TensorList(inputs), &context, plan.inputs);
  }
  const BeforeAndAttention until = until_attention(x, weights, context);
  variable_list inputs = {until.x, until.attended};
  kAfter.append(inputs, weights);
  return AfterAttentionNode::apply(at::TensorList(inputs), &context, plan.recompute);
}

at::Tensor block_decode(const at::Tensor& x, const BlockWeights& weights, const BlockContext& context,
                        AttentionCache& cache) {
  const AttentionInputs inputs = before_attention(x, weights, context);
  return after_attention(x, cache.append(inputs.query, inputs.key, inputs.value), weights, context, Recompute::block)
      .output;
}

}  // namespace dga

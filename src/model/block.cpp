#include "model/block.h"

#include <ATen/ATen.h>
#include <torch/autograd.h>

#include "model/after_attention.h"
#include "model/before_attention.h"

// A layer is three nodes of autograd: the part before attention, attention, the part behind it. The two outer nodes
// make again in their backward passes what they did not keep; attention keeps what its own backward pass needs, so
// neither ever runs it again. Under Recompute::block one node holds all three; it keeps the layer's input, and what
// spares attention its second run (AttentionMemory).

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

/// Inputs: x and all weights.
class RecomputedBlock : public torch::autograd::Function<RecomputedBlock> {
 public:
  static at::Tensor forward(AutogradContext* ctx, at::TensorList inputs, const BlockContext* context,
                            const BlockPlan& plan) {
    ctx->save_for_backward(inputs.slice(kWhole.offset).vec());
    keep_context(ctx, *context);
    auto kept = c10::make_intrusive<Kept>();
    AttentionMemory& attention = kept->attention;
    attention.keep_output = plan.keep_attention;
    const BlockWeights weights = kWhole.read(inputs);
    AttentionInputs before = before_attention(inputs[0], weights, *context);
    const at::Tensor attended =
        context->attention->forward(before.query, before.key, before.value, *context->layout, &attention);
    if (!plan.keep_attention_inputs) before = {};
    const at::Tensor output = after_attention(inputs[0], attended, weights, *context, Recompute::block).output;
    kept->store = plan.store;
    // Detached: what the store holds must not hold the graph that holds the store.
    kept->slot = plan.store->put({inputs[0].detach(), std::move(attention.output), std::move(attention.log_sum_exp),
                                  std::move(before.query), std::move(before.key), std::move(before.value),
                                  std::move(before.inverse_rms)});
    ctx->saved_data["kept"] = c10::IValue::make_capsule(kept);
    return output;
  }

  // Runs the layer up to attention again; behind it only what the gradients need. Takes `grads` by reference to let go
  // of the output's gradient, as large as the input, before attention's backward pass.
  static variable_list backward(AutogradContext* ctx, variable_list& grads) {
    const auto holder = kept_context(ctx);
    const BlockContext& context = holder->context;
    const auto kept = c10::static_intrusive_pointer_cast<Kept>(ctx->saved_data["kept"].toCapsule());
    std::vector<at::Tensor> stored = kept->store->take(kept->slot);
    const at::Tensor x = std::move(stored[0]);
    kept->attention.output = std::move(stored[1]);
    kept->attention.log_sum_exp = std::move(stored[2]);
    const BlockWeights weights = WeightRange{kWhole.first, kWhole.count, 0}.read(ctx->get_saved_variables());
    AttentionInputs inputs{std::move(stored[3]), std::move(stored[4]), std::move(stored[5]), std::move(stored[6])};
    if (!inputs.query.defined()) inputs = before_attention(x, weights, context);
    const auto leaf = [](const at::Tensor& t) { return t.detach().set_requires_grad(true); };
    const variable_list leaves = {leaf(inputs.query), leaf(inputs.key), leaf(inputs.value)};
    const at::Tensor inverse_rms = inputs.inverse_rms;
    inputs = {};
    at::Tensor attended;
    {
      const at::AutoGradMode with_graph(true);
      attended = context.attention->forward(leaves[0], leaves[1], leaves[2], *context.layout, &kept->attention);
    }
    kept->attention = {};
    const WantedWeights wanted = kWhole.wanted(ctx);
    BlockWeights gradients;
    AfterAttentionGradients after =
        after_attention_backward({x, attended.detach(), {}, std::move(grads[0])}, weights, context, wanted, gradients);
    variable_list result = {at::Tensor()};
    if (ctx->needs_input_grad(0) || wanted.input_norm || wanted.q_proj || wanted.k_proj || wanted.v_proj) {
      const variable_list found = torch::autograd::grad({attended}, leaves, {std::move(after.attended)});
      result[0] = before_attention_backward({x, inverse_rms, after.x, found[0], found[1], found[2]}, weights, context,
                                            wanted, gradients);
    }
    kWhole.append(result, gradients);
    result.resize(result.size() + 2);  // the context's and the plan's
    return result;
  }

 private:
  struct Kept : torch::CustomClassHolder {
    std::shared_ptr<HostStore> store;  // of the input, attention's output and log-sum-exp, and its inputs
    size_t slot = 0;
    AttentionMemory attention;  // without what the store holds
  };
};

}  // namespace

at::Tensor block_forward(const at::Tensor& x, const BlockWeights& weights, const BlockContext& context,
                         const BlockPlan& plan) {
  if (!at::GradMode::is_enabled()) {
    return after_attention(x, until_attention(x, weights, context).attended, weights, context, Recompute::block).output;
  }
  if (plan.recompute == Recompute::block) {
    variable_list inputs = {x};
    kWhole.append(inputs, weights);
    return RecomputedBlock::apply(at::TensorList(inputs), &context, plan);
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

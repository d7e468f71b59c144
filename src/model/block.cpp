#include "model/block.h"

#include <ATen/ATen.h>
#include <torch/autograd.h>

#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/swiglu.h"

namespace dga {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// `attend` maps q, k, v [B, L, H or G, D] after RoPE to outputs [B, L, H, D].
template <class Attend>
at::Tensor layer(const at::Tensor& x, const BlockWeights& w, const BlockContext& c, const Attend& attend) {
  const int64_t batch = x.size(0), length = x.size(1);
  const at::Tensor a = rms_norm(x, w.input_norm, c.rms_norm_eps);
  const at::Tensor q = at::linear(a, w.q_proj).view({batch, length, c.heads, c.head_dim});
  const at::Tensor k = at::linear(a, w.k_proj).view({batch, length, c.kv_heads, c.head_dim});
  const at::Tensor v = at::linear(a, w.v_proj).view({batch, length, c.kv_heads, c.head_dim});
  const at::Tensor attended =
      attend(apply_rope(q, c.angles.cos, c.angles.sin), apply_rope(k, c.angles.cos, c.angles.sin), v);
  const at::Tensor y = x + at::linear(attended.reshape({batch, length, c.heads * c.head_dim}), w.o_proj);
  const at::Tensor m = rms_norm(y, w.post_attention_norm, c.rms_norm_eps);
  return y + at::linear(swiglu(at::linear(m, w.gate_proj), at::linear(m, w.up_proj)), w.down_proj);
}

BlockWeights weights_of(const variable_list& tensors, size_t first) {
  BlockWeights weights;
  for (size_t i = 0; i < kBlockWeights.size(); ++i) weights.*kBlockWeights[i].member = tensors[first + i];
  return weights;
}

/// Inputs: x and the weights in the order of kBlockWeights. Saves them alone, and runs the layer again in backward.
class RecomputedBlock : public torch::autograd::Function<RecomputedBlock> {
 public:
  static at::Tensor forward(AutogradContext* ctx, at::TensorList inputs, const BlockContext* context) {
    const variable_list saved = inputs.vec();
    ctx->save_for_backward(saved);
    ctx->saved_data["context"] = c10::IValue::make_capsule(c10::make_intrusive<Holder>(*context));
    return block_forward(saved[0], weights_of(saved, 1), *context);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grad_outputs) {
    const auto holder = ctx->saved_data["context"].toCapsule();
    const BlockContext& context = static_cast<const Holder&>(*holder).context;
    // Leaves of a graph of their own, so that the gradients come back here instead of into the parameters.
    variable_list leaves, wanted;
    const variable_list saved = ctx->get_saved_variables();
    for (const at::Tensor& tensor : saved) {
      leaves.push_back(tensor.detach().set_requires_grad(tensor.requires_grad()));
      if (tensor.requires_grad()) wanted.push_back(leaves.back());
    }
    at::Tensor output;
    {
      const at::AutoGradMode with_graph(true);
      output = block_forward(leaves[0], weights_of(leaves, 1), context);
    }
    const variable_list grads =
        torch::autograd::grad({output}, wanted, {grad_outputs[0]}, /*retain_graph=*/false, /*create_graph=*/false,
                              /*allow_unused=*/true);
    variable_list result(saved.size() + 1);  // the last is the context's
    for (size_t i = 0, next = 0; i < saved.size(); ++i) {
      if (saved[i].requires_grad()) result[i] = grads[next++];
    }
    return result;
  }

 private:
  struct Holder : torch::CustomClassHolder {
    explicit Holder(const BlockContext& c) : context(c) {}
    BlockContext context;
  };
};

}  // namespace

at::Tensor block_forward(const at::Tensor& x, const BlockWeights& weights, const BlockContext& context) {
  return layer(x, weights, context, [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    return context.attention->forward(q, k, v, *context.layout);
  });
}

at::Tensor block_forward_recomputed(const at::Tensor& x, const BlockWeights& weights, const BlockContext& context) {
  variable_list inputs = {x};
  for (const BlockWeight& weight : kBlockWeights) inputs.push_back(weights.*weight.member);
  return RecomputedBlock::apply(at::TensorList(inputs), &context);
}

at::Tensor block_decode(const at::Tensor& x, const BlockWeights& weights, const BlockContext& context,
                        AttentionCache& cache) {
  return layer(x, weights, context,
               [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) { return cache.append(q, k, v); });
}

}  // namespace dga

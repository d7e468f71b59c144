#include "model/before_attention.h"

#include <ATen/ATen.h>

#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/weight_gradient.h"

namespace dga {

AttentionInputs before_attention(const at::Tensor& x, const BlockWeights& w, const BlockContext& c) {
  const int64_t batch = x.size(0), length = x.size(1);
  const AddedNorm norm = add_rms_norm(x.reshape({-1, x.size(2)}), {}, w.input_norm, c.rms_norm_eps);
  const auto project = [&](const at::Tensor& weight, int64_t heads) {
    return at::mm(norm.normed, weight.t()).view({batch, length, heads, c.head_dim});
  };
  QueryKey rotated =
      apply_rope({project(w.q_proj, c.heads), project(w.k_proj, c.kv_heads)}, c.angles.cos, c.angles.sin);
  return {std::move(rotated.query), std::move(rotated.key), project(w.v_proj, c.kv_heads), norm.inverse_rms};
}

at::Tensor before_attention_backward(const BeforeAttentionBackward& given, const BlockWeights& w, const BlockContext& c,
                                     const WantedWeights& wanted, BlockWeights& gradients) {
  const int64_t hidden = given.x.size(2);
  const auto rows = [](const at::Tensor& t, int64_t width) { return t.reshape({-1, width}); };  // [T, width]
  const QueryKey before_rope = rope_backward({given.grad_query, given.grad_key}, c.angles.cos, c.angles.sin);
  const at::Tensor query = rows(before_rope.query, c.heads * c.head_dim);
  const at::Tensor key = rows(before_rope.key, c.kv_heads * c.head_dim);
  const at::Tensor value = rows(given.grad_value, c.kv_heads * c.head_dim);
  const at::Tensor x = rows(given.x, hidden);
  {
    const at::Tensor normed = normed_again(x, given.inverse_rms, w.input_norm, c.rms_norm_eps);
    if (wanted.q_proj) gradients.q_proj = weight_gradient(w.q_proj, query, normed);
    if (wanted.k_proj) gradients.k_proj = weight_gradient(w.k_proj, key, normed);
    if (wanted.v_proj) gradients.v_proj = weight_gradient(w.v_proj, value, normed);
  }
  NormBackward norm;
  norm.grad_normed = at::mm(query, w.q_proj).addmm_(key, w.k_proj).addmm_(value, w.v_proj);
  norm.grad_sum = rows(given.grad_x, hidden);
  norm.sum = x;
  norm.inverse_rms = given.inverse_rms;
  norm.wants_weight = wanted.input_norm;
  const NormGradients grads = rms_norm_backward(norm, w.input_norm);
  if (wanted.input_norm) gradients.input_norm = grads.weight.to(w.input_norm.scalar_type());
  return grads.sum.view(given.x.sizes());
}

}  // namespace dga

#pragma once

#include "model/block.h"

/// The part of a layer before attention: norm, projections to queries, keys and values, RoPE. Plain functions without
/// autograd, which block.cpp builds on. B batch, L length, T = B L tokens.
namespace dga {

/// What the part takes from the layer's input.
struct AttentionInputs {
  at::Tensor query;        // [B, L, H, D] after RoPE
  at::Tensor key, value;   // [B, L, G, D]
  at::Tensor inverse_rms;  // [T], of the norm
};
/// x [B, L, hidden].
AttentionInputs before_attention(const at::Tensor& x, const BlockWeights& weights, const BlockContext& context);

/// Gradients that reach the part, and what it kept.
struct BeforeAttentionBackward {
  at::Tensor x, inverse_rms;
  at::Tensor grad_x;  // [B, L, hidden]: what reaches x by the residual
  at::Tensor grad_query, grad_key, grad_value;
};
/// The gradient of x and, into those members of `gradients` that `wanted` asks for, of the weights; undefined where it
/// went to the weight's sink (ops/gradient_sink.h).
at::Tensor before_attention_backward(const BeforeAttentionBackward& given, const BlockWeights& weights,
                                     const BlockContext& context, const WantedWeights& wanted, BlockWeights& gradients);

}  // namespace dga

#pragma once

#include "model/block.h"

/// The part of a layer behind attention: output projection, residual, norm, MLP, residual. Every token is on its own,
/// so it runs in tiles of BlockContext::mlp_tile_tokens tokens (0: one tile). Plain functions without autograd, which
/// block.cpp builds on. B batch, L length, T = B L tokens.
namespace dga {

/// What the backward pass needs besides the part's inputs; undefined tensors are computed again.
struct AfterAttentionKept {
  at::Tensor sum, inverse_rms;  // [T, hidden], [T]: x plus the output projection, and its norm's factor
  at::Tensor gate, up;          // [T, intermediate]
};

struct AfterAttention {
  at::Tensor output;  // [B, L, hidden]
  AfterAttentionKept kept;
};
/// x [B, L, hidden], attended [B, L, H, D]. `recompute` says what is kept: block nothing, selective the sum, none also
/// gate and up.
AfterAttention after_attention(const at::Tensor& x, const at::Tensor& attended, const BlockWeights& weights,
                               const BlockContext& context, Recompute recompute);

struct AfterAttentionBackward {
  at::Tensor x, attended;
  AfterAttentionKept kept;
  at::Tensor grad_output;  // [B, L, hidden]
};
struct AfterAttentionGradients {
  at::Tensor x;         // [B, L, hidden]
  at::Tensor attended;  // [B, L, H, D]
};
/// The gradients of the inputs and, into those members of `gradients` that `wanted` asks for, of the weights; undefined
/// where they went to the weight's sink (ops/gradient_sink.h). Those of several tiles are summed by the products
/// themselves, in fp32, and rounded once.
AfterAttentionGradients after_attention_backward(const AfterAttentionBackward& given, const BlockWeights& weights,
                                                 const BlockContext& context, const WantedWeights& wanted,
                                                 BlockWeights& gradients);

}  // namespace dga

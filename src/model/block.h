#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <memory>

#include "attention/attention.h"
#include "model/llama_config.h"
#include "model/rope.h"

namespace dga {

/// Weights of one decoder layer; the same type holds their gradients.
struct BlockWeights {
  at::Tensor input_norm;           // [hidden]
  at::Tensor q_proj;               // [H * D, hidden]
  at::Tensor k_proj, v_proj;       // [G * D, hidden]
  at::Tensor o_proj;               // [hidden, H * D]
  at::Tensor post_attention_norm;  // [hidden]
  at::Tensor gate_proj, up_proj;   // [intermediate, hidden]
  at::Tensor down_proj;            // [hidden, intermediate]
};

/// The members of BlockWeights in order, with their Hugging Face names inside a layer.
struct BlockWeight {
  const char* name;
  at::Tensor BlockWeights::*member;
};
inline constexpr std::array kBlockWeights = {
    BlockWeight{"input_layernorm.weight", &BlockWeights::input_norm},
    BlockWeight{"self_attn.q_proj.weight", &BlockWeights::q_proj},
    BlockWeight{"self_attn.k_proj.weight", &BlockWeights::k_proj},
    BlockWeight{"self_attn.v_proj.weight", &BlockWeights::v_proj},
    BlockWeight{"self_attn.o_proj.weight", &BlockWeights::o_proj},
    BlockWeight{"post_attention_layernorm.weight", &BlockWeights::post_attention_norm},
    BlockWeight{"mlp.gate_proj.weight", &BlockWeights::gate_proj},
    BlockWeight{"mlp.up_proj.weight", &BlockWeights::up_proj},
    BlockWeight{"mlp.down_proj.weight", &BlockWeights::down_proj},
};

/// What a layer needs besides weights and input. The attention must outlive every graph made with it.
struct BlockContext {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  double rms_norm_eps = 0;
  RopeAngles angles;
  std::shared_ptr<const SequenceLayout> layout;
  const Attention* attention = nullptr;
};

/// One decoder layer: x [B, L, hidden] -> [B, L, hidden].
at::Tensor block_forward(const at::Tensor& x, const BlockWeights& weights, const BlockContext& context);

/// The same, keeping only x for the backward pass, which computes the layer again.
at::Tensor block_forward_recomputed(const at::Tensor& x, const BlockWeights& weights, const BlockContext& context);

/// One layer over T new tokens of a cached sequence, x [1, T, hidden]; `context` has no layout and attention.
at::Tensor block_decode(const at::Tensor& x, const BlockWeights& weights, const BlockContext& context,
                        AttentionCache& cache);

}  // namespace dga

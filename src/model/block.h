#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <memory>

#include "attention/attention.h"
#include "model/host_store.h"
#include "model/llama_config.h"
#include "model/memory_config.h"
#include "model/rope.h"

namespace dga {

/// One value for each weight of a decoder layer.
template <class T>
struct PerBlockWeight {
  T input_norm{};            // [hidden]
  T q_proj{};                // [H * D, hidden]
  T k_proj{}, v_proj{};      // [G * D, hidden]
  T o_proj{};                // [hidden, H * D]
  T post_attention_norm{};   // [hidden]
  T gate_proj{}, up_proj{};  // [intermediate, hidden]
  T down_proj{};             // [hidden, intermediate]
};
/// The weights, or their gradients.
using BlockWeights = PerBlockWeight<at::Tensor>;
/// Of which weights a gradient is asked for.
using WantedWeights = PerBlockWeight<bool>;

/// The members of PerBlockWeight in order, with their Hugging Face names inside a layer.
struct BlockWeight {
  const char* name;
  at::Tensor BlockWeights::*member;
  bool WantedWeights::*wanted;
};
inline constexpr std::array kBlockWeights = {
    BlockWeight{"input_layernorm.weight", &BlockWeights::input_norm, &WantedWeights::input_norm},
    BlockWeight{"self_attn.q_proj.weight", &BlockWeights::q_proj, &WantedWeights::q_proj},
    BlockWeight{"self_attn.k_proj.weight", &BlockWeights::k_proj, &WantedWeights::k_proj},
    BlockWeight{"self_attn.v_proj.weight", &BlockWeights::v_proj, &WantedWeights::v_proj},
    BlockWeight{"self_attn.o_proj.weight", &BlockWeights::o_proj, &WantedWeights::o_proj},
    BlockWeight{"post_attention_layernorm.weight", &BlockWeights::post_attention_norm,
                &WantedWeights::post_attention_norm},
    BlockWeight{"mlp.gate_proj.weight", &BlockWeights::gate_proj, &WantedWeights::gate_proj},
    BlockWeight{"mlp.up_proj.weight", &BlockWeights::up_proj, &WantedWeights::up_proj},
    BlockWeight{"mlp.down_proj.weight", &BlockWeights::down_proj, &WantedWeights::down_proj},
};
/// How many of them, the first ones, stand before attention.
inline constexpr size_t kWeightsBeforeAttention = 4;

/// What a layer needs besides weights and input. The attention must outlive every graph made with it.
struct BlockContext {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  double rms_norm_eps = 0;
  RopeAngles angles;
  std::shared_ptr<const SequenceLayout> layout;
  const Attention* attention = nullptr;
  int64_t mlp_tile_tokens = 0;  // see MemoryConfig
};

/// What one layer keeps for its backward pass, and where.
struct BlockPlan {
  Recompute recompute = Recompute::none;
  std::shared_ptr<HostStore> store;  // of Recompute::block
  // Under Recompute::block, see MemoryConfig and Offload.
  bool keep_attention = false;
  bool keep_attention_inputs = false;
};

/// One decoder layer: x [B, L, hidden] -> [B, L, hidden].
at::Tensor block_forward(const at::Tensor& x, const BlockWeights& weights, const BlockContext& context,
                         const BlockPlan& plan);

/// One layer over T new tokens of a cached sequence, x [1, T, hidden]; `context` has no layout and attention.
at::Tensor block_decode(const at::Tensor& x, const BlockWeights& weights, const BlockContext& context,
                        AttentionCache& cache);

}  // namespace dga

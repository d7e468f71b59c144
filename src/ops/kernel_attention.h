#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/grouping/segments.h"
#include "ops/attention_memory.h"

/// Attention by the project's CUDA kernels (kernels/README.md), with exact gradients. B batch, L length, H query heads,
/// G key-value heads, D head dim. Bitwise deterministic, the gradients where LibTorch's deterministic algorithms are
/// on.
namespace dga {

/// Why the kernels cannot take q [B, L, H, D] and k [B, L, G, D], in one sentence; empty where they can: bf16 on a
/// Hopper GPU, head dim 64 or 128.
std::string kernel_attention_obstacle(const at::Tensor& q, const at::Tensor& k);

/// The same for kernel_grouped_attention with these settings: blocks of up to 256 tokens.
std::string kernel_grouped_obstacle(const at::Tensor& q, const at::Tensor& k,
                                    const kernels::GroupingSettings& settings);

/// Which tokens of its sequence query t sees: all up to itself; or, with a window, the last `window` of them and those
/// of the first `sinks` that lie before.
struct TokenRanges {
  double scale = 1.0;
  int64_t window = 0;  // 0: all
  int64_t sinks = 0;
};

/// Causal attention within the sequences that start at `starts` (per row, increasing, the first is 0).
/// q [B, L, H, D], k, v [B, L, G, D] -> [B, L, H, D].
at::Tensor kernel_token_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const std::vector<std::vector<int64_t>>& starts, const TokenRanges& ranges,
                                  AttentionMemory* memory = nullptr);

/// How the focal tokens are found.
enum class FocalSource { sampled_queries, block_queries, given };

struct GroupedAttention {
  kernels::GroupingSettings grouping;
  FocalSource source = FocalSource::sampled_queries;
  bool mean_weights = false;  // P = 1 / m instead of the softmax of the group's last query
  bool entropy_bias = false;
  bool keep_lists = true;  // for the backward pass; else it makes them again
  double scale = 1.0;
  std::vector<std::vector<int64_t>> starts;            // per row, as above
  std::vector<std::vector<int32_t>> sample_positions;  // sampled_queries: per row, increasing
  std::vector<std::vector<int32_t>> sample_begins;     // and the start of the sequence of each
  std::vector<std::vector<int32_t>> focal;             // given: positions of row b and KV head g at b * G + g
  /// Called on the enqueueing thread after the kernels of each stage: importance, select, order, compress, attention,
  /// attention_backward, compress_backward (`dga bench attention` records events there).
  std::function<void(const char* stage)> stage_observer;
};

/// Dynamic Group Attention. q [B, L, H, D], k, v [B, L, G, D] -> [B, L, H, D]. Kept for the backward pass: the inputs,
/// the output, its log-sum-exp, and the lists or, without keep_lists, one bit a token and KV head to make them again.
at::Tensor kernel_grouped_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const GroupedAttention& attention, AttentionMemory* memory = nullptr);

/// Query-key pairs that this call computes over all rows and query heads. Waits for the GPU.
double kernel_visible_pairs(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const GroupedAttention& attention);

}  // namespace dga

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/grouping/segments.h"

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

/// Full causal attention within the sequences that start at `starts` (per row, increasing, the first is 0).
/// q [B, L, H, D], k, v [B, L, G, D] -> [B, L, H, D].
at::Tensor kernel_full_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                 const std::vector<std::vector<int64_t>>& starts, double scale);

/// How the focal tokens are found.
enum class FocalSource { sampled_queries, block_queries, given };

struct GroupedAttention {
  kernels::GroupingSettings grouping;
  FocalSource source = FocalSource::sampled_queries;
  bool mean_weights = false;  // P = 1 / m instead of the softmax of the group's last query
  bool entropy_bias = false;
  double scale = 1.0;
  std::vector<std::vector<int64_t>> starts;            // per row, as above
  std::vector<std::vector<int32_t>> sample_positions;  // sampled_queries: per row, increasing
  std::vector<std::vector<int32_t>> sample_begins;     // and the start of the sequence of each
  std::vector<std::vector<int32_t>> focal;             // given: positions of row b and KV head g at b * G + g
};

/// Dynamic Group Attention. q [B, L, H, D], k, v [B, L, G, D] -> [B, L, H, D]. Kept for the backward pass: the inputs,
/// the output, its log-sum-exp and one bit a token and KV head; the lists are made again.
at::Tensor kernel_grouped_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const GroupedAttention& attention);

}  // namespace dga

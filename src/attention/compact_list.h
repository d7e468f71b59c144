#pragma once

#include <ATen/core/Tensor.h>

#include "attention/config.h"
#include "ops/grouping.h"

/// What the selections of dga share: tokens [L, ...] gathered per KV head, groups pooled, entries put together.
/// R rows (KV heads, or KV heads x blocks), F focal tokens, N others, M groups, m members.
namespace dga {

/// Entries that stand for tokens in the list of focal tokens and groups.
struct CompactList {
  at::Tensor keys;    // [R, C, D]
  at::Tensor values;  // [R, C, D]
  at::Tensor bias;    // [R, C], or undefined with GroupBias::none
};

/// One sequence (or a run of blocks) after RoPE: q [L, H, D], k, v [L, G, D].
struct SequenceTokens {
  at::Tensor q, k, v;
  int64_t kv_heads() const { return k.size(1); }
  double scale() const;  // 1 / sqrt(D)
};

/// Keys or values of the focal tokens and of the others, in order of position.
struct SplitTokens {
  at::Tensor focal_keys, focal_values;  // [R, F, D]
  at::Tensor other_keys, other_values;  // [R, N, D]
};

/// `split` holds positions within a row; row i belongs to KV head i / (R / G) and starts at token
/// (i % (R / G)) * row_tokens.
SplitTokens gather_split(const SequenceTokens& tokens, const FocalSplit& split, int64_t row_tokens);

/// Groups of `members` consecutive others, from the `first`-th other on, `count` of them; pooled as the config says.
/// `others` are their positions as in gather_split.
PooledGroups pool_others(const SequenceTokens& tokens, const SplitTokens& split, const at::Tensor& others,
                         int64_t row_tokens, int64_t first, int64_t count, int64_t members, GroupWeights weights);

/// Focal tokens followed by the groups of `parts`.
CompactList join_entries(const SplitTokens& split, const std::vector<PooledGroups>& parts, GroupBias bias);

}  // namespace dga

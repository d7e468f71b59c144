#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

/// The steps that divide tokens into focal ones and groups. R independent rows (KV heads, or KV heads x blocks),
/// L tokens a row, F focal tokens, M groups, m members, D head dim. Positions are int64.
namespace dga {

/// Token positions of each row, both lists increasing: focal [R, F], others [R, L - F].
struct FocalSplit {
  at::Tensor focal;
  at::Tensor others;
};

/// The `count` tokens of largest importance [R, L] are focal; ties go to the lower position. No gradient.
FocalSplit split_by_importance(const at::Tensor& importance, int64_t count);

/// Given focal positions [R, F] (increasing, distinct, below `length`).
FocalSplit split_at(const at::Tensor& focal, int64_t length);

/// The rows of x [N, D...] at distinct indices (int64, any shape S): [S..., D...]. Differentiable; because the indices
/// are distinct, no two gradients meet.
at::Tensor take_rows(const at::Tensor& x, const at::Tensor& indices);

enum class PoolWeights { query, mean };

/// Groups pooled into one key and value each.
struct PooledGroups {
  at::Tensor keys;     // [R, M, D]
  at::Tensor values;   // [R, M, D]
  at::Tensor entropy;  // [R, M], of the weights; fp32 (double for double)
};

/// Pools keys, values [R, M, m, D] with the weights P = softmax over the members of scale * query.key (query
/// [R, M, D]), or P = 1 / m: K = sum P k, V = sum P v, entropy = -sum P ln P. Computed in fp32 (double for double) and
/// rounded to the keys' type. Differentiable in query, keys and values.
PooledGroups pool_groups(const at::Tensor& query, const at::Tensor& keys, const at::Tensor& values, PoolWeights weights,
                         double scale);

/// Order in which the focal tokens and groups of a row join the compact list: the permutation [R, F + M] of the focal
/// tokens (0 .. F - 1) and groups (F .. F + M - 1) that sorts their times of availability, focal [R, F] and groups
/// [R, M], ascending; at equal time focal tokens come first, then the lower index. `times` are the sorted times.
struct CompactOrder {
  at::Tensor order;
  at::Tensor times;
};
CompactOrder compact_order(const at::Tensor& focal_times, const at::Tensor& group_times);

}  // namespace dga

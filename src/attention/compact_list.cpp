#include "attention/compact_list.h"

#include <ATen/ATen.h>

#include <cmath>

#include "ops/compute_type.h"

namespace dga {
namespace {

// Indices into the rows [L * G, ...] of a [L, G, ...] tensor, for positions [R, K] within the rows of gather_split.
at::Tensor flat_indices(const at::Tensor& positions, int64_t kv_heads, int64_t row_tokens) {
  const int64_t per_head = positions.size(0) / kv_heads;
  const at::Tensor head = at::arange(kv_heads, positions.options()).unsqueeze(1);
  const at::Tensor start = at::arange(per_head, positions.options()).mul(row_tokens * kv_heads).unsqueeze(0);
  return positions.mul(kv_heads).add(head.add(start).view({-1, 1}));
}

}  // namespace

double SequenceTokens::scale() const { return 1.0 / std::sqrt(static_cast<double>(q.size(2))); }

SplitTokens gather_split(const SequenceTokens& tokens, const FocalSplit& split, int64_t row_tokens) {
  const int64_t focal = split.focal.size(1), others = split.others.size(1), width = tokens.k.size(2);
  const at::Tensor indices = flat_indices(at::cat({split.focal, split.others}, 1), tokens.kv_heads(), row_tokens);
  const std::vector<at::Tensor> keys =
      take_rows(tokens.k.reshape({-1, width}), indices).split_with_sizes({focal, others}, 1);
  const std::vector<at::Tensor> values =
      take_rows(tokens.v.reshape({-1, width}), indices).split_with_sizes({focal, others}, 1);
  return {keys[0], values[0], keys[1], values[1]};
}

PooledGroups pool_others(const SequenceTokens& tokens, const SplitTokens& split, const at::Tensor& others,
                         int64_t row_tokens, int64_t first, int64_t count, int64_t members, GroupWeights weights) {
  const int64_t kv_heads = tokens.kv_heads(), width = tokens.q.size(2), end = first + count * members;
  const auto grouped = [&](const at::Tensor& x) {
    return x.slice(1, first, end).reshape({x.size(0), count, members, width});
  };
  at::Tensor query;
  if (weights == GroupWeights::last_query) {
    const at::Tensor last =
        flat_indices(others.slice(1, first, end).slice(1, members - 1, end - first, members), kv_heads, row_tokens);
    const at::Tensor per_head = tokens.q.reshape({tokens.q.size(0) * kv_heads, -1, width});  // [L * G, r, D]
    query = take_rows(per_head, last).to(compute_type(per_head.scalar_type())).mean(2);      // [R, count, D]
  }
  return pool_groups(query, grouped(split.other_keys), grouped(split.other_values),
                     weights == GroupWeights::mean ? PoolWeights::mean : PoolWeights::query, tokens.scale());
}

CompactList join_entries(const SplitTokens& split, const std::vector<PooledGroups>& parts, GroupBias bias) {
  std::vector<at::Tensor> keys = {split.focal_keys}, values = {split.focal_values}, entropies;
  entropies.push_back(at::zeros({split.focal_keys.size(0), split.focal_keys.size(1)},
                                split.focal_keys.options().dtype(compute_type(split.focal_keys.scalar_type()))));
  for (const PooledGroups& part : parts) {
    keys.push_back(part.keys);
    values.push_back(part.values);
    entropies.push_back(part.entropy);
  }
  return {at::cat(keys, 1), at::cat(values, 1), bias == GroupBias::entropy ? at::cat(entropies, 1) : at::Tensor()};
}

}  // namespace dga

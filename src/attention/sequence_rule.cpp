#include <ATen/ATen.h>

#include <algorithm>

#include "attention/dga.h"
#include "attention/query_sampling.h"
#include "ops/importance.h"
#include "ops/two_range_attention.h"
#include "util/error.h"

namespace dga {
namespace {

FocalSplit choose_focal(const SequenceTokens& tokens, const AttentionConfig& config, const RandomKey& key,
                        int64_t number) {
  const int64_t length = tokens.k.size(0), kv_heads = tokens.kv_heads();
  const auto part = [](int64_t x) { return static_cast<uint64_t>(x); };
  if (config.selection == Selection::none) {
    return split_at(at::empty({kv_heads, 0}, tokens.k.options().dtype(at::kLong).requires_grad(false)), length);
  }
  const int64_t focal = focal_count(config.focal_ratio, length);
  if (config.selection == Selection::random) {
    std::vector<at::Tensor> rows;
    for (int64_t head = 0; head < kv_heads; ++head) {
      const CounterRng rng({key.seed, part(key.layer), part(head), part(number)});
      rows.push_back(at::tensor(rng.sample(length, focal), at::kLong));
    }
    return split_at(at::stack(rows).to(tokens.k.device()), length);
  }
  const CounterRng rng({key.seed, part(key.layer), part(number)});
  const std::vector<int64_t> positions = sampled_positions(config.query_sampling, config.sampled_queries, length, rng);
  const at::Tensor queries = tokens.q.detach().index_select(0, at::tensor(positions, at::kLong).to(tokens.q.device()));
  return split_by_importance(sampled_importance(queries, positions, tokens.k.detach(), tokens.scale()), focal);
}

// For each time t the number of entries of each row of `times` (sorted) with time <= t.
at::Tensor count_until(const at::Tensor& times, const at::Tensor& t) {
  return at::searchsorted(times.contiguous(), t, /*out_int32=*/false, /*right=*/true);
}

// The first of the others that each query sees one by one, given how many it has passed and how many groups closed.
at::Tensor first_single(const FocalSplit& split, const at::Tensor& passed, const at::Tensor& closed,
                        const AttentionConfig& config) {
  if (config.complementary) return closed.mul(config.group_size);
  // The query's own token alone, unless that is focal.
  return passed.sub(at::zeros_like(passed).scatter_(1, split.others, 1));
}

}  // namespace

at::Tensor sequence_rule_attention(const SequenceTokens& tokens, const AttentionConfig& config, const RandomKey& key,
                                   int64_t number) {
  const int64_t length = tokens.k.size(0), kv_heads = tokens.kv_heads(), members = config.group_size;
  const FocalSplit split = choose_focal(tokens, config, key, number);
  const SplitTokens parts = gather_split(tokens, split, length);
  const int64_t groups = split.others.size(1) / members;
  const PooledGroups pooled =
      pool_others(tokens, parts, split.others, length, 0, groups, members, config.group_weights);

  // A window beyond the sequence hides every group; the bound keeps the sum of positions and window small.
  const at::Tensor group_times = split.others.slice(1, 0, groups * members)
                                     .slice(1, members - 1, groups * members, members)
                                     .add(std::min(config.local_window, length));
  const CompactOrder order = compact_order(split.focal, group_times);
  const CompactList entries = join_entries(parts, {pooled}, config.group_bias);
  const int64_t count = order.order.size(1), width = tokens.k.size(2);
  const at::Tensor row_start = at::arange(kv_heads, order.order.options()).mul(count).unsqueeze(1);
  const at::Tensor indices = order.order.add(row_start);

  TwoRangeKeys keys;
  keys.first_keys = take_rows(entries.keys.reshape({-1, width}), indices);
  keys.first_values = take_rows(entries.values.reshape({-1, width}), indices);
  if (entries.bias.defined()) keys.first_bias = take_rows(entries.bias.reshape({-1}), indices);
  keys.second_keys = parts.other_keys;
  keys.second_values = parts.other_values;

  const at::Tensor t = at::arange(length, order.order.options()).unsqueeze(0).expand({kv_heads, -1}).contiguous();
  TwoRangeBounds bounds;
  bounds.first_end = count_until(order.times, t);
  bounds.second_end = count_until(split.others, t);
  bounds.second_begin = first_single(split, bounds.second_end, count_until(group_times, t), config);
  return two_range_attention(tokens.q, keys, bounds, {tokens.scale()});
}

}  // namespace dga

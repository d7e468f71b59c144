#include <ATen/ATen.h>

#include <algorithm>

#include "attention/by_sequence.h"
#include "attention/dga.h"
#include "attention/token_buffer.h"
#include "ops/importance.h"
#include "ops/two_range_attention.h"
#include "util/error.h"

namespace dga {
namespace {

// Blocks before the local range of the queries at position `t`.
int64_t divided_before(int64_t t, const AttentionConfig& config) {
  return std::max<int64_t>(0, t / config.block_size - config.local_blocks);
}

// Attention of the queries q [T, H, D] at positions `first` and following, over the entries of all divided blocks and
// the tokens k, v [N, G, D] from position `local_begin` on.
at::Tensor attend_blocks(const at::Tensor& q, int64_t first, const CompactList& entries, const at::Tensor& k,
                         const at::Tensor& v, int64_t local_begin, const AttentionConfig& config) {
  const int64_t kv_heads = k.size(1);
  const at::Tensor t = at::arange(first, first + q.size(0), q.options().dtype(at::kLong).requires_grad(false));
  const at::Tensor divided =
      at::floor_divide(t, config.block_size).sub(std::min(config.local_blocks, first + q.size(0))).clamp_min(0);
  const auto every_head = [kv_heads](const at::Tensor& bound) { return bound.unsqueeze(0).expand({kv_heads, -1}); };
  TwoRangeKeys keys{entries.keys, entries.values, entries.bias, k.transpose(0, 1), v.transpose(0, 1)};
  TwoRangeBounds bounds;
  bounds.first_end = every_head(divided.mul(entries_per_block(config)));
  bounds.second_begin = every_head(divided.mul(config.block_size).sub(local_begin));
  bounds.second_end = every_head(t.add(1 - local_begin));
  return two_range_attention(q, keys, bounds, {SequenceTokens{q, k, v}.scale()});
}

class BlockRuleCache : public AttentionCache {
 public:
  explicit BlockRuleCache(const AttentionConfig& config) : config_(config) {}

  at::Tensor append(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) override {
    check_heads(q, k, v);
    DGA_CHECK(q.size(0) == 1, "a cache holds one sequence, got q ", q.sizes());
    const at::NoGradGuard no_grad;
    queries_.append(q[0]);
    keys_.append(k[0]);
    values_.append(v[0]);
    const int64_t first = length_;
    length_ += q.size(1);
    divide();
    const at::Tensor out =
        attend_blocks(q[0], first, entries_, keys_.tokens(), values_.tokens(), local_begin_, config_);
    const int64_t next_begin = divided_before(length_, config_) * config_.block_size;
    for (TokenBuffer* buffer : {&queries_, &keys_, &values_}) buffer->drop_front(next_begin - local_begin_);
    local_begin_ = next_begin;
    return out.unsqueeze(0);
  }

  int64_t length() const override { return length_; }

 private:
  // Adds the entries of the blocks that the next token does not see one by one.
  void divide() {
    const int64_t blocks = divided_before(length_, config_) - local_begin_ / config_.block_size;
    if (blocks == 0 && entries_.keys.defined()) return;
    const int64_t tokens = blocks * config_.block_size;
    const int64_t scoring = blocks == 0 ? 0 : tokens + config_.local_blocks * config_.block_size;
    const CompactList added =
        divide_blocks({queries_.tokens().narrow(0, 0, scoring), keys_.tokens().narrow(0, 0, tokens),
                       values_.tokens().narrow(0, 0, tokens)},
                      blocks, config_);
    if (!entries_.keys.defined()) {
      entries_ = added;
    } else {
      entries_.keys = at::cat({entries_.keys, added.keys}, 1);
      entries_.values = at::cat({entries_.values, added.values}, 1);
      if (added.bias.defined()) entries_.bias = at::cat({entries_.bias, added.bias}, 1);
    }
  }

  AttentionConfig config_;
  CompactList entries_;                  // of the blocks before local_begin_
  TokenBuffer queries_, keys_, values_;  // of the tokens from local_begin_ on
  int64_t local_begin_ = 0;              // a multiple of the block size
  int64_t length_ = 0;
};

}  // namespace

int64_t entries_per_block(const AttentionConfig& config) {
  const int64_t focal = focal_count(config.focal_ratio, config.block_size);
  return focal + (config.block_size - focal + config.group_size - 1) / config.group_size;
}

CompactList divide_blocks(const SequenceTokens& tokens, int64_t blocks, const AttentionConfig& config) {
  const int64_t block = config.block_size, kv_heads = tokens.kv_heads(), width = tokens.k.size(2);
  const int64_t focal = focal_count(config.focal_ratio, block), others = block - focal;
  if (blocks == 0) {
    const at::Tensor empty = at::empty({kv_heads, 0, width}, tokens.k.options().requires_grad(false));
    return join_entries({empty, empty, empty, empty}, {}, config.group_bias);
  }
  const at::Tensor importance =
      block_importance(tokens.q.detach(), tokens.k.detach(), {block, config.local_blocks}, tokens.scale());
  const FocalSplit split = split_by_importance(importance.view({kv_heads * blocks, block}), focal);
  const SplitTokens parts = gather_split(tokens, split, block);
  const int64_t groups = others / config.group_size, rest = others % config.group_size;
  std::vector<PooledGroups> pooled;
  pooled.push_back(pool_others(tokens, parts, split.others, block, 0, groups, config.group_size, config.group_weights));
  if (rest > 0) {
    pooled.push_back(
        pool_others(tokens, parts, split.others, block, groups * config.group_size, 1, rest, config.group_weights));
  }
  const CompactList entries = join_entries(parts, pooled, config.group_bias);
  const int64_t count = blocks * entries_per_block(config);
  return {entries.keys.reshape({kv_heads, count, width}), entries.values.reshape({kv_heads, count, width}),
          entries.bias.defined() ? entries.bias.reshape({kv_heads, count}) : at::Tensor()};
}

at::Tensor block_rule_attention(const SequenceTokens& tokens, const AttentionConfig& config) {
  const int64_t blocks = divided_before(tokens.k.size(0) - 1, config), block = config.block_size;
  const int64_t scoring = blocks == 0 ? 0 : (blocks + config.local_blocks) * block;
  const CompactList entries = divide_blocks(
      {tokens.q.narrow(0, 0, scoring), tokens.k.narrow(0, 0, blocks * block), tokens.v.narrow(0, 0, blocks * block)},
      blocks, config);
  return attend_blocks(tokens.q, 0, entries, tokens.k, tokens.v, 0, config);
}

std::unique_ptr<AttentionCache> make_block_rule_cache(const AttentionConfig& config) {
  return std::make_unique<BlockRuleCache>(config);
}

}  // namespace dga

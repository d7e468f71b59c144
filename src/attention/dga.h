#pragma once

#include <memory>

#include "attention/attention.h"
#include "attention/compact_list.h"
#include "util/random.h"

namespace dga {

/// Dynamic Group Attention of one layer.
std::unique_ptr<Attention> make_dga_attention(const AttentionConfig& config, int64_t layer, uint64_t seed);

/// What keys the random choices of one layer.
struct RandomKey {
  uint64_t seed = 0;
  int64_t layer = 0;
};

/// The selections global, random and none over one sequence: focal tokens and groups chosen from the whole sequence
/// (paper, section 4; with the local window of `local_window`). `number` identifies the sequence in the data order.
/// Returns [L, H, D].
at::Tensor sequence_rule_attention(const SequenceTokens& tokens, const AttentionConfig& config, const RandomKey& key,
                                   int64_t number);

/// The selection causal over one sequence. Returns [L, H, D].
at::Tensor block_rule_attention(const SequenceTokens& tokens, const AttentionConfig& config);

/// Divides whole blocks into entries: `blocks` blocks of k, v [blocks * B, G, D], scored by q [(blocks + n) * B, H, D].
/// Returns lists of G rows with the same number of entries for every block, in order of the blocks.
CompactList divide_blocks(const SequenceTokens& tokens, int64_t blocks, const AttentionConfig& config);

/// Entries that a block of B tokens leaves in the compact list.
int64_t entries_per_block(const AttentionConfig& config);

/// A cache for token-by-token use of the selection causal.
std::unique_ptr<AttentionCache> make_block_rule_cache(const AttentionConfig& config);

}  // namespace dga

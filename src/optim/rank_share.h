#pragma once

#include <cstdint>
#include <vector>

#include "dist/config.h"
#include "optim/flat_layout.h"

namespace dga {

/// A range of the flat space whose optimizer state a rank holds.
struct HeldRange {
  FlatRange numbers;     // in the flat space
  int64_t at = 0;        // place of its first number in the tensors of the state
  int64_t first = 0;     // the same in the flat space of one rank: what stochastic rounding depends on
  bool decayed = false;  // whether weight decay applies
  size_t earliest = 0;   // of the parameters that its group holds, in their order
};

/// What one of several ranks holds. Part r of `ranks` equal parts of each bucket belongs to rank r; where the state is
/// not sharded, a rank holds everything.
struct RankShare {
  std::vector<HeldRange> owned;  // its parts of the buckets; over all ranks every number once
  std::vector<HeldRange> held;   // what it updates; the same where the state is sharded
  int64_t state_size = 0;        // numbers in `held`

  RankShare(const FlatLayout& layout, ShardLevel level, int64_t rank, int64_t ranks);
};

}  // namespace dga

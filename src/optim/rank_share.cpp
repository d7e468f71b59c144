#include "optim/rank_share.h"

namespace dga {

RankShare::RankShare(const FlatLayout& layout, ShardLevel level, int64_t rank, int64_t ranks) {
  const bool sharded = level != ShardLevel::none;
  const auto range_of = [&](const FlatGroup& group, FlatRange numbers, int64_t at) {
    return HeldRange{numbers, at, group.first + numbers.begin - group.numbers.begin,
                     group.numbers.end <= layout.decayed_end, group.earliest};
  };
  int64_t owned_before = 0;
  for (const FlatGroup& group : layout.groups) {
    for (const FlatRange& bucket : group.buckets) {
      const int64_t part = bucket.size() / ranks, begin = bucket.begin + rank * part;
      owned.push_back(range_of(group, {begin, begin + part}, sharded ? owned_before : begin));
      owned_before += part;
    }
    if (!sharded) held.push_back(range_of(group, group.numbers, group.numbers.begin));
  }
  if (sharded) held = owned;
  state_size = sharded ? owned_before : layout.size;
}

}  // namespace dga

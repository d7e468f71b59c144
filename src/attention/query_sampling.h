#pragma once

#include <cstdint>
#include <vector>

#include "attention/config.h"
#include "util/random.h"

namespace dga {

/// Positions of the queries that score importance in a sequence of `length` tokens, increasing and distinct; at most
/// `count`, all if the sequence is shorter. `rng` is used for QuerySampling::random alone.
std::vector<int64_t> sampled_positions(QuerySampling sampling, int64_t count, int64_t length, const CounterRng& rng);

}  // namespace dga

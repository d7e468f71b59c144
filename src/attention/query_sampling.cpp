#include "attention/query_sampling.h"

#include <algorithm>
#include <numeric>

namespace dga {

std::vector<int64_t> sampled_positions(QuerySampling sampling, int64_t count, int64_t length, const CounterRng& rng) {
  const int64_t samples = std::min(count, length);
  if (sampling == QuerySampling::random) return rng.sample(length, samples);
  std::vector<int64_t> positions(static_cast<size_t>(samples));
  std::iota(positions.begin(), positions.end(), length - samples);
  if (sampling == QuerySampling::recent || samples == 1) return positions;
  // Rounds i * (L - 1) / (S - 1) to the nearest integer, halves upwards; distinct because S <= L.
  for (int64_t i = 0; i < samples; ++i) {
    positions[static_cast<size_t>(i)] = (2 * i * (length - 1) + samples - 1) / (2 * (samples - 1));
  }
  return positions;
}

}  // namespace dga

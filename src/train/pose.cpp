#include "train/pose.h"

#include "util/random.h"

namespace dga {

std::vector<int64_t> pose_positions(const PoseConfig& pose, int64_t length, uint64_t seed, int64_t row_number) {
  const auto row = static_cast<uint64_t>(row_number);
  const CounterRng skips({key_of("pose skips"), seed, row}), cuts({key_of("pose cuts"), seed, row});
  const std::vector<int64_t> after = cuts.sample(length - 1, pose.chunks - 1);  // a chunk ends after these tokens
  const int64_t most = pose.target_length - length;
  std::vector<int64_t> positions;
  int64_t skip = 0;
  size_t chunk = 0;
  for (int64_t t = 0; t < length; ++t) {
    positions.push_back(t + skip);
    if (chunk == after.size() || t != after[chunk]) continue;
    skip += static_cast<int64_t>(skips.uniform(chunk) * static_cast<double>(most - skip + 1));
    ++chunk;
  }
  return positions;
}

void skip_positions(const PoseConfig& pose, const Batch& batch, uint64_t seed, MicroBatch& part) {
  if (pose.target_length == 0) return;
  for (int64_t row = part.first_row; row < part.first_row + part.rows; ++row) {
    const int64_t number = batch.row_numbers[static_cast<size_t>(row)];
    part.layout.positions.push_back(pose_positions(pose, batch.context_length, seed, number));
  }
}

}  // namespace dga

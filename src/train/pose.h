#pragma once

#include <cstdint>
#include <vector>

#include "train/config.h"
#include "train/micro_batch.h"

namespace dga {

/// Positions of a row of `length` tokens: cut at chunks - 1 places drawn evenly, the first chunk from 0 on, each later
/// one moved further by a skip drawn evenly from what is left of target_length - length. They rise and stay below
/// target_length. The draw depends on the seed and the row's number in the data order alone.
std::vector<int64_t> pose_positions(const PoseConfig& pose, int64_t length, uint64_t seed, int64_t row_number);

/// Gives the rows of `part` the positions of pose_positions(); nothing with target_length 0.
void skip_positions(const PoseConfig& pose, const Batch& batch, uint64_t seed, MicroBatch& part);

}  // namespace dga

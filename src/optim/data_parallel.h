#pragma once

#include <cstdint>

#include "dist/communicator.h"
#include "dist/config.h"

namespace dga {

/// The ranks that train one model together, each on rows of its own.
struct DataParallel {
  Communicator* ranks = nullptr;  // null: one alone
  ShardLevel level = ShardLevel::none;
  ReduceType reduce = ReduceType::fp32;
  int64_t bucket_bytes = int64_t{128} << 20;  // of gradients that are reduced together
};

inline DataParallel data_parallel(Communicator& ranks, const ParallelConfig& config) {
  return {&ranks, config.shard, config.reduce, config.bucket_mib << 20};
}

}  // namespace dga

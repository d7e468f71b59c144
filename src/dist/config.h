#pragma once

#include <cstdint>

#include "config/fields.h"

namespace dga {

/// What the ranks of a run share out among themselves; the rest each of them holds whole.
enum class ShardLevel { none, optimizer, optimizer_gradients };
inline auto enum_names(ShardLevel) {
  return config::names<ShardLevel>({{ShardLevel::none, "none"},
                                    {ShardLevel::optimizer, "optimizer"},
                                    {ShardLevel::optimizer_gradients, "optimizer_gradients"}});
}

/// The type that gradients are summed in over the ranks.
enum class ReduceType { fp32, bf16 };
inline auto enum_names(ReduceType) {
  return config::names<ReduceType>({{ReduceType::fp32, "fp32"}, {ReduceType::bf16, "bf16"}});
}

/// Section `parallel`.
struct ParallelConfig {
  int64_t threads = 0;
  ShardLevel shard = ShardLevel::optimizer;
  ReduceType reduce = ReduceType::fp32;
  int64_t bucket_mib = 128;
  int64_t timeout_seconds = 600;

  void fields(config::Fields& f);
};

}  // namespace dga

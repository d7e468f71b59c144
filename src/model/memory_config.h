#pragma once

#include <cstdint>
#include <optional>

#include "config/fields.h"

namespace dga {

/// What the backward pass computes again instead of keeping it; bytes and costs stand in docs/training.md.
/// none: norms alone. selective: norms, gate and up projections; what attention needs is kept. block: everything but
/// the last product, from the layer's input.
enum class Recompute { none, selective, block };
inline auto enum_names(Recompute) {
  return config::names<Recompute>(
      {{Recompute::none, "none"}, {Recompute::selective, "selective"}, {Recompute::block, "block"}});
}

/// What waits for the backward pass in pinned host memory instead of the GPU's. attention_inputs: what block_inputs
/// says, and the queries, keys and values, whose projections then never run again.
enum class Offload { none, block_inputs, attention_inputs };
inline auto enum_names(Offload) {
  return config::names<Offload>({{Offload::none, "none"},
                                 {Offload::block_inputs, "block_inputs"},
                                 {Offload::attention_inputs, "attention_inputs"}});
}

/// How a training step trades time for memory; TrainConfig lists these among its own fields. None of them changes what
/// is computed; mlp_tile_tokens changes rounding.
struct MemoryConfig {
  Recompute recompute = Recompute::none;
  std::optional<int64_t> recompute_layers;
  bool keep_attention = true;
  Offload offload = Offload::none;
  int64_t mlp_tile_tokens = 0;

  void fields(config::Fields& f);
  void check(config::Checker& c) const;

  /// The plan of one layer: `recompute` for the first recompute_layers, none for the others. Those are the last ones
  /// because their memory is free again before the backward passes of the others need theirs.
  Recompute of_layer(int64_t layer) const;
};

}  // namespace dga

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "ops/adamw.h"
#include "optim/rank_share.h"
#include "tensor/tensor_file.h"

namespace dga {

/// The trained weights in the flat space and the optimizer's tensors of what a rank holds (RankShare::held, one range
/// after the other).
struct OptimizerState {
  at::Tensor weight;      // all of them; the parameters are views of it
  at::Tensor weight_low;  // int16, the bits that bf16 weights lack of their fp32 masters; undefined for wider weights
  StoredMoment exp_avg, exp_avg_sq;
};

/// Numbers [first, first + count) of a parameter, in the order that it stores them.
struct StatePiece {
  std::string parameter;
  std::vector<int64_t> shape;  // of the whole parameter
  int64_t first = 0;           // a multiple of kMomentBlock
  int64_t count = 0;
  /// What checkpoints hold of them, each tensor made when it is written: "exp_avg.<parameter>",
  /// "exp_avg_sq.<parameter>", for 8-bit moments "exp_avg_scale.<parameter>" and "exp_avg_sq_scale.<parameter>" with
  /// one number for each 256, and for bf16 weights "master.<parameter>" in fp32. Of the parameter's shape where the
  /// piece is all of it, else flat.
  std::map<std::string, TensorSource> tensors;
};

/// The pieces of parameters in `ranges`, by parameter and place. `state` holds the ranges.
std::vector<StatePiece> pieces_of(const OptimizerState& state, const FlatLayout& layout,
                                  const std::vector<HeldRange>& ranges);

/// Copies what checkpoints hold of the ranges into the state, masters into weights too. Throws an input error naming a
/// missing tensor, or one of another shape or type.
void restore_state(const OptimizerState& state, const FlatLayout& layout, const std::vector<HeldRange>& ranges,
                   const SavedTensors& saved);

}  // namespace dga

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "attention/sequence_layout.h"
#include "model/llama_config.h"

namespace dga {

/// RoPE's inverse frequencies and the factor on cos and sin (1 but for YaRN), rounded to fp32 step for step as
/// transformers computes them.
struct RopeFrequencies {
  at::Tensor inverse;  // [D/2] fp32, CPU
  float attention_factor = 1.0F;
};
RopeFrequencies rope_frequencies(const LlamaConfig& config);

/// cos and sin, each [1 or B, L, D] fp32, for apply_rope.
struct RopeAngles {
  at::Tensor cos, sin;
};

/// cos and sin of every position, grown to the longest length asked for.
class RopeTable {
 public:
  RopeTable(const LlamaConfig& config, at::Device device);
  /// Positions first .. first + length - 1: [1, length, D].
  RopeAngles range(int64_t first, int64_t length);
  /// Rows with the layout's positions: [B, L, D], or [1, L, D] where every row counts from 0 to the end.
  RopeAngles rows(const SequenceLayout& layout, int64_t length);

 private:
  void grow(int64_t length);

  RopeFrequencies frequencies_;
  at::Device device_;
  at::Tensor cos_, sin_;  // [positions, D]
};

}  // namespace dga

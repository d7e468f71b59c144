#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "attention/config.h"
#include "attention/sequence_layout.h"

/// The method page's definition, query by query and token by token. Shares no code with src/ops or src/attention but
/// the settings, the layout and the random numbers that the definition itself names.
namespace dga::testing {

struct OracleResult {
  at::Tensor out;     // [B, L, H, D], differentiable
  int64_t pairs = 0;  // query-key pairs over all KV heads and sequences
};

/// `inverse_frequencies` [D/2] are those of RoPE, for the kinds that see tokens at other distances than their own.
/// Double inputs q [B, L, H, D], k, v [B, L, G, D].
OracleResult oracle_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const SequenceLayout& layout, const AttentionConfig& config, int64_t layer, uint64_t seed,
                              const at::Tensor& inverse_frequencies = {});

}  // namespace dga::testing

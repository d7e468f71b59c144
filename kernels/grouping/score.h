#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/attention/attention.h"
#include "kernels/grouping/segments.h"

// Importance of every token as a key: the attention it receives from sampled queries, summed over the query heads that
// share its KV head (docs/method.md, rule 1). Two passes over tiles, no S x L matrix, no atomics: bitwise
// deterministic.
namespace dga::kernels {

/// Sampled queries of each row of the batch in increasing order of position; a query scores the keys
/// [begin, position], begin being the start of its document. Unused entries of a row: position -1.
struct SampleTable {
  const int32_t* positions = nullptr;  // [B, S]
  const int32_t* begins = nullptr;     // [B, S], never decreases within a row
  int64_t samples = 0;                 // S
};

struct ScoreParams {
  Shape shape;           // batch, length, heads, kv_heads, head_dim
  TensorRef query, key;  // bf16 [B, L, H, D], [B, L, G, D]
  SampleTable table;
  float scale = 0;
  float* importance = nullptr;  // [B, G, L], written
  void* workspace = nullptr;    // score_workspace_bytes(), 256-byte aligned
};

size_t score_workspace_bytes(const Shape& shape, int64_t samples);

/// Rule `global`: I_j = sum over the sampled queries s >= j and query heads h of softmax_{i <= s}(scale q_s.k_i)[j].
void score(const ScoreParams& params, cudaStream_t stream);

struct BlockScoreParams {
  Shape shape;           // batch, length, heads, kv_heads, head_dim
  TensorRef query, key;  // bf16 [B, L, H, D], [B, L, G, D]
  SegmentTable table;    // of rule block
  int64_t local_blocks = 0;
  float scale = 0;
  float* importance = nullptr;  // [B, G, L], written for the tokens of divided blocks
};

/// The longest block that score_blocks() takes.
constexpr int64_t kMaxScoredBlock = 256;

/// Rule `causal`: the queries s of a block c and of the `local_blocks` blocks after it score the keys of block c, each
/// by its own softmax over the block's keys i <= s; I_j = their sum, over the query heads h that share the KV head too.
void score_blocks(const BlockScoreParams& params, cudaStream_t stream);

}  // namespace dga::kernels

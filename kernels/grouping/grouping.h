#pragma once

#include "kernels/attention/attention.h"
#include "kernels/grouping/segments.h"

// From importances to what attention reads, and back: focal bits, order and bounds, the compact and the second list,
// and the gradients of the tokens from those of the lists. Everything is bitwise deterministic. Launchers work on
// `stream`, allocate and synchronise nothing, and throw std::runtime_error with the failing call.
//
// Legend: B batch, L length, H query heads, G KV heads, D head dim, C compact entries, N entries of the second list,
// W = ceil(L / 32) words.
namespace dga::kernels {

/// The focal set of one layer and what follows from it: bit i % 32 of word i / 32 is token i of the row.
struct FocalSet {
  SegmentTable table;
  int64_t batch = 0;
  int64_t length = 0;
  int64_t kv_heads = 0;
  uint32_t* bits = nullptr;        // [B, G, W]; per segment exactly focal_count; written by select(), or by the caller
  int32_t* word_ranks = nullptr;   // [B, G, W] focal tokens of the row before the word; written by order()
  int32_t* token_order = nullptr;  // [B, G, L] positions in the row; at each segment's place first its non-focal
                                   // tokens, then its focal tokens, each in order; written by order()
};

struct SelectParams {
  FocalSet focal;                     // bits are written
  const float* importance = nullptr;  // [B, G, L], finite, not negative
};

/// Sets the bits of the focal_count most important tokens of each segment; of equals those at lower positions.
void select(const SelectParams& params, cudaStream_t stream);

struct OrderParams {
  FocalSet focal;                  // bits are read, the rest is written
  int32_t* first_begin = nullptr;  // [B, G, L] each, as in Bounds; first_begin may be null where each row is one
  int32_t* first_end = nullptr;    // sequence (then it is all zeros)
  int32_t* second_begin = nullptr;
  int32_t* second_end = nullptr;
};

/// Writes prefix counts, token order and the bounds of every query.
void order(const OrderParams& params, cudaStream_t stream);

enum class GroupPooling : int32_t { last_query, mean };  // P from the last member's query, or P = 1 / members

/// Shape, inputs and lists of both directions. Head dim 64 or 128. Lists may be laid out in any order of dimensions
/// ([B, G, C, D] keeps a head's list together).
struct CompressParams {
  Shape shape;
  FocalSet focal;
  GroupPooling pooling = GroupPooling::last_query;
  float scale = 0;          // of the logits, usually 1 / sqrt(D)
  TensorRef query;          // [B, L, H, D]; not read with GroupPooling::mean
  TensorRef key, value;     // [B, L, G, D]
  int64_t bias_stride = 0;  // of the entropy bias [B, G, bias_stride], at least C
};

struct CompressForwardParams {
  CompressParams common;
  TensorRef compact_key, compact_value;  // [B, C, G, D], written; zeros behind the end of a row's list
  TensorRef second_key, second_value;    // [B, N, G, D], written likewise; rule block: not used, the list is K and V
  float* bias = nullptr;  // entropy of each group's weights, written, zero for tokens and up to bias_stride; or null
};

/// Pools the groups and writes the lists in one pass over K and V.
void compress_forward(const CompressForwardParams& params, cudaStream_t stream);

struct CompressBackwardParams {
  CompressParams common;
  TensorRef grad_compact_key, grad_compact_value;  // [B, C, G, D]
  TensorRef grad_second_key, grad_second_value;    // [B, N, G, D]; rule block: not used
  const float* grad_bias = nullptr;                // [B, G, bias_stride], or null without bias
  TensorRef grad_key, grad_value;  // [B, L, G, D]; rule sequence: written; rule block: hold the gradients of the second
                                   // list, and those of the compact list are added
  TensorRef grad_query;            // [B, L, H, D], added to at the last member of each group; not with mean
};

/// Gradients of K, V and of the weighting queries from those of the lists. The weights are computed again.
void compress_backward(const CompressBackwardParams& params, cudaStream_t stream);

}  // namespace dga::kernels

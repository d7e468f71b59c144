#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

/// Attention in which every query sees two contiguous ranges of keys. T queries, H query heads, G key-value heads,
/// D head dim, C entries of the first list, N of the second.
namespace dga {

/// Keys and values of the two lists, of the queries' type.
struct TwoRangeKeys {
  at::Tensor first_keys;     // [G, C, D]
  at::Tensor first_values;   // [G, C, D]
  at::Tensor first_bias;     // [G, C], added to the logits; undefined: none. fp32 or double
  at::Tensor second_keys;    // [G, N, D]; undefined: no second list
  at::Tensor second_values;  // [G, N, D]
};

/// Bounds of the ranges, int64 [G, T], each non-decreasing along T. Query t of KV head g sees the entries
/// [first_begin, first_end) of the first list and [second_begin, second_end) of the second; a range may be empty.
struct TwoRangeBounds {
  at::Tensor first_begin;  // undefined: 0
  at::Tensor first_end;
  at::Tensor second_begin;  // undefined with second_end: no second list
  at::Tensor second_end;
};

struct TwoRangeOptions {
  double scale = 1.0;       // of the products q.k
  int64_t chunk_bytes = 0;  // at most so many bytes of logits at once; 0: a default for the device
};

/// Softmax attention over both ranges together: q [T, H, D] -> [T, H, D]. Logits, softmax and sums are fp32 (double
/// for double). Queries are taken in chunks; only the inputs and the log-sum-exp are kept for the backward pass, which
/// computes the logits again. Exact gradients for q, keys, values and bias. A query that sees nothing gives zeros.
/// Chunks depend on shapes and bounds alone, never on keys: an entry outside a query's ranges cannot change its bits.
at::Tensor two_range_attention(const at::Tensor& q, const TwoRangeKeys& keys, const TwoRangeBounds& bounds,
                               const TwoRangeOptions& options);

}  // namespace dga

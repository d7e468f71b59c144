#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "ops/two_range_attention.h"

/// How two_range_attention cuts its queries into chunks.
namespace dga {

/// A half-open interval of queries or list entries.
struct Interval {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

/// Entries of one list that some query of a chunk sees; outside `whole` a query or a KV head may not see them.
struct ChunkRange {
  Interval seen;
  Interval whole;  // inside seen: every query of the chunk sees these, in every KV head
};

struct QueryChunk {
  Interval queries;
  ChunkRange first;
  ChunkRange second;
};

struct ChunkLimits {
  int64_t heads = 0;          // logits a query and entry
  int64_t element_bytes = 0;  // of one logit
  int64_t chunk_bytes = 0;    // of the logits of a chunk of several queries
  int64_t most_queries = 0;
};

/// Chunks that cover all queries in order, each as long as the limits allow and at least one query.
std::vector<QueryChunk> query_chunks(const TwoRangeBounds& bounds, const ChunkLimits& limits);

}  // namespace dga

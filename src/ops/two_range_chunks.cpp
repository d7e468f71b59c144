#include "ops/two_range_chunks.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace dga {
namespace {

// Per query the smallest and the largest bound over the KV heads, on the host.
struct Extremes {
  at::Tensor storage;  // [2, T]
  const int64_t* least = nullptr;
  const int64_t* most = nullptr;
};

Extremes extremes(const at::Tensor& bound, int64_t queries) {
  Extremes result;
  result.storage = bound.defined() ? at::stack({bound.amin(0), bound.amax(0)}).to(at::kCPU).contiguous()
                                   : at::zeros({2, queries}, at::kLong);
  result.least = result.storage.const_data_ptr<int64_t>();
  result.most = result.least + queries;
  return result;
}

// The bounds never decrease from query to query, so the ends of a chunk bound everything inside it.
ChunkRange chunk_range(const Extremes& begin, const Extremes& end, Interval queries) {
  const int64_t first = queries.begin, last = queries.end - 1;
  ChunkRange range;
  range.seen.begin = begin.least[first];
  range.seen.end = std::max(range.seen.begin, end.most[last]);
  range.whole.begin = std::clamp(begin.most[last], range.seen.begin, range.seen.end);
  range.whole.end = std::clamp(end.least[first], range.whole.begin, range.seen.end);
  return range;
}

}  // namespace

std::vector<QueryChunk> query_chunks(const TwoRangeBounds& bounds, const ChunkLimits& limits) {
  const int64_t total = bounds.first_end.size(1);
  const Extremes first_begin = extremes(bounds.first_begin, total), first_end = extremes(bounds.first_end, total);
  const Extremes second_begin = extremes(bounds.second_begin, total), second_end = extremes(bounds.second_end, total);
  const auto chunk_of = [&](Interval queries) {
    return QueryChunk{queries, chunk_range(first_begin, first_end, queries),
                      chunk_range(second_begin, second_end, queries)};
  };
  const auto bytes = [&limits](const QueryChunk& chunk) {
    return chunk.queries.size() * (chunk.first.seen.size() + chunk.second.seen.size()) * limits.heads *
           limits.element_bytes;
  };
  std::vector<QueryChunk> chunks;
  for (int64_t begin = 0; begin < total; begin = chunks.back().queries.end) {
    QueryChunk chunk = chunk_of({begin, std::min(total, begin + limits.most_queries)});
    while (chunk.queries.size() > 1 && bytes(chunk) > limits.chunk_bytes) {
      chunk = chunk_of({begin, begin + (chunk.queries.size() + 1) / 2});
    }
    chunks.push_back(chunk);
  }
  return chunks;
}

}  // namespace dga

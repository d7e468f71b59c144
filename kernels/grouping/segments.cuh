#pragma once

#include "kernels/grouping/grouping.h"

// Where tokens, groups and units of work lie, from the segment table and prefix counts of the focal bits.
namespace dga::kernels {

/// Last of the `count` sorted values [begin, begin + count) that is at most `limit`, as an index; the first always is.
template <typename Value>
__device__ __forceinline__ int last_at_most(int begin, int count, int limit, Value value) {
  while (count > 1) {
    const int half = count / 2;
    if (value(begin + half) <= limit) {
      begin += half;
      count -= half;
    } else {
      count = half;
    }
  }
  return begin;
}

__device__ __forceinline__ Segment segment_of_token(const SegmentTable& table, int row, int token) {
  const int begin = table.row_begins[row];
  const int index = last_at_most(begin, table.row_begins[row + 1] - begin, token,
                                 [&](int i) { return table.segments[i].token_begin; });
  return table.segments[index];
}

/// Prefix counts of one segment and KV head. Positions t count from the segment's begin.
struct SegmentRanks {
  const uint32_t* bits;  // of the row and head
  const int32_t* word_ranks;
  int token_begin, focal_before, length, window, group_size;

  __device__ __forceinline__ SegmentRanks(const FocalSet& focal, const Segment& segment, int head) {
    const int64_t words = (focal.length + 31) / 32;
    const int64_t offset = (segment.row * focal.kv_heads + head) * words;
    bits = focal.bits + offset;
    word_ranks = focal.word_ranks + offset;
    token_begin = segment.token_begin;
    focal_before = segment.focal_before;
    length = segment.length;
    window = focal.table.local_window;
    group_size = focal.table.group_size;
  }
  __device__ __forceinline__ bool focal(int t) const {
    const int token = token_begin + t;
    return bits[token / 32] >> (token % 32) & 1;
  }
  /// Focal tokens at positions <= t.
  __device__ __forceinline__ int focal_until(int t) const {
    const int token = token_begin + t;
    return word_ranks[token / 32] + __popc(bits[token / 32] & 0xffffffffu >> (31 - token % 32)) - focal_before;
  }
  /// Groups with last(g) + w <= t (rule sequence).
  __device__ __forceinline__ int closed_until(int t) const {
    const int s = t - window;
    return s < 0 ? 0 : (s + 1 - focal_until(s)) / group_size;
  }
  /// Entry of the focal token at t, the i-th of its segment (rule sequence): the groups closed before it precede it.
  __device__ __forceinline__ int focal_entry(int i, int t) const { return i + closed_until(t - 1); }
  /// Entry of group g whose last member is at t (rule sequence): the focal tokens up to its closing precede it.
  __device__ __forceinline__ int group_entry(int g, int t) const {
    return g + focal_until(min(t + window, length - 1));
  }
};

/// Work of one warp on one KV head. A segment's units are its groups, one each, then its non-focal tokens beyond the
/// last group (rule sequence) and then its focal tokens, up to kUnitTokens each.
struct Unit {
  enum Kind { group, ungrouped, focal };
  Segment segment;
  Kind kind;
  int first;  // group: its number; ungrouped: number of the first among the non-focal tokens; focal: among the focal
  int count;  // tokens
};

__device__ __forceinline__ Unit find_unit(const SegmentTable& table, int index) {
  Unit unit;
  const int found = last_at_most(0, table.segment_count, index, [&](int i) { return table.segments[i].unit_begin; });
  unit.segment = table.segments[found];
  const Segment& segment = unit.segment;
  const int others = segment.length - segment.focal_count;
  int local = index - segment.unit_begin;
  if (local < segment.group_count) {
    unit.kind = Unit::group;
    unit.first = local;
    unit.count = min(table.group_size, others - local * table.group_size);
    return unit;
  }
  local -= segment.group_count;
  // A short last group takes the rest under rule block.
  const int grouped = min(segment.group_count * table.group_size, others);
  const int rest_units = (others - grouped + kUnitTokens - 1) / kUnitTokens;
  unit.kind = local < rest_units ? Unit::ungrouped : Unit::focal;
  unit.first = local < rest_units ? grouped + local * kUnitTokens : (local - rest_units) * kUnitTokens;
  unit.count = min(kUnitTokens, (local < rest_units ? others : segment.focal_count) - unit.first);
  return unit;
}

}  // namespace dga::kernels

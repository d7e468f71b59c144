#pragma once

#include "kernels/common/bf16.cuh"
#include "kernels/grouping/segments.cuh"

// What both directions of the compression share. A warp holds up to 16 rows of keys and as many of values in registers,
// 16 bytes a lane: D / 8 lanes make a row, so 2 rows (D = 128) or 4 rows (D = 64) come with one load.
namespace dga::kernels {

constexpr int kCompressWarps = 4;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ float dot(const Floats8& a, const Floats8& b, float sum) {
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fmaf(a.v[i], b.v[i], sum);
  return sum;
}

/// One head's rows of a [B, rows, heads, D] tensor, as this lane sees them: 8 elements of each row.
struct LaneRows {
  char* base;
  int64_t row_bytes;

  __device__ __forceinline__ LaneRows(const TensorRef& tensor, int batch, int head, int column_lane) {
    base = static_cast<char*>(const_cast<void*>(tensor.data)) +
           (batch * tensor.batch_stride + head * tensor.head_stride + column_lane * 8) * 2;
    row_bytes = tensor.row_stride * 2;
  }
  __device__ __forceinline__ uint4* at(int row) const { return reinterpret_cast<uint4*>(base + row * row_bytes); }
};

__device__ __forceinline__ int group_heads(const Shape& shape) {
  return static_cast<int>(shape.heads) / static_cast<int>(shape.kv_heads);
}

/// How a warp's lanes divide over rows of D elements.
template <int kHeadDim>
struct WarpRows {
  static constexpr int kLanes = kHeadDim / 8;         // of a row
  static constexpr int kRows = 32 / kLanes;           // of one load
  static constexpr int kLoads = kUnitTokens / kRows;  // of a unit's tokens
  int column_lane = threadIdx.x % kLanes;
  int row_lane = threadIdx.x % 32 / kLanes;

  /// Which of the unit's tokens this lane holds with load i.
  __device__ __forceinline__ int token(int i) const { return i * kRows + row_lane; }

  /// Sum over the lanes of a row.
  static __device__ __forceinline__ float row_sum(float value) {
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
    return value;
  }
  /// Sum over the rows of a load, column by column.
  static __device__ __forceinline__ float column_sum(float value) {
#pragma unroll
    for (int step = kLanes; step < 32; step *= 2) value += __shfl_xor_sync(kAllLanes, value, step);
    return value;
  }
  static __device__ __forceinline__ float column_max(float value) {
#pragma unroll
    for (int step = kLanes; step < 32; step *= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, step));
    return value;
  }

  /// Loads row positions[token(i)] of `count` tokens for every i; rows beyond are zero. positions: lane i holds that of
  /// token i.
  __device__ __forceinline__ void load(uint4 (&rows)[kLoads], const LaneRows& source, int positions, int count) const {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int position = __shfl_sync(kAllLanes, positions, token(i));
      rows[i] = token(i) < count ? __ldg(source.at(position)) : make_uint4(0, 0, 0, 0);
    }
  }

  /// Mean over the query heads of a KV head of the query at `position`, times `scale`.
  __device__ __forceinline__ Floats8 mean_query(const TensorRef& query, int batch, int kv_head, int heads, int position,
                                                float scale) const {
    Floats8 sum = {};
    for (int h = 0; h < heads; ++h) {
      const Floats8 one = unpack(__ldg(LaneRows(query, batch, kv_head * heads + h, column_lane).at(position)));
#pragma unroll
      for (int i = 0; i < 8; ++i) sum.v[i] += one.v[i];
    }
    const float factor = scale / static_cast<float>(heads);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum.v[i] *= factor;
    return sum;
  }
};

/// The warp's unit of work; heads run fastest over the blocks, so that blocks at work together read whole token rows.
struct WarpWork {
  int head, unit;
  __device__ __forceinline__ explicit WarpWork(int kv_heads)
      : head(blockIdx.x % kv_heads), unit(blockIdx.x / kv_heads * kCompressWarps + threadIdx.x / 32) {}
};

inline unsigned compress_blocks(const SegmentTable& table, int64_t kv_heads) {
  return static_cast<unsigned>((table.unit_count + kCompressWarps - 1) / kCompressWarps * kv_heads);
}

/// Lane i's position of the unit's token i, for the tokens of its segment from `place` on in order().
__device__ __forceinline__ int lane_position(const FocalSet& focal, const Segment& segment, int head, int place,
                                             int count) {
  const int lane = threadIdx.x % 32;
  const int64_t offset = (segment.row * focal.kv_heads + head) * focal.length + segment.token_begin + place;
  return lane < count ? __ldg(focal.token_order + offset + lane) : 0;
}

/// Lane i's entry in the row's compact list of the segment's focal token first + i at row position `position`.
__device__ __forceinline__ int focal_entry(const SegmentTable& table, const SegmentRanks& ranks, const Segment& segment,
                                           int first, int count, int position) {
  const int i = first + static_cast<int>(threadIdx.x % 32);
  if (i >= first + count) return 0;
  return segment.compact_begin +
         (table.rule == GroupingRule::sequence ? ranks.focal_entry(i, position - segment.token_begin) : i);
}

/// Entry of group g, whose last member is at row position `last`. Under rule block the groups follow the focal tokens.
__device__ __forceinline__ int group_entry(const SegmentTable& table, const SegmentRanks& ranks, const Segment& segment,
                                           int g, int last) {
  return segment.compact_begin + (table.rule == GroupingRule::sequence
                                      ? ranks.group_entry(g, last - segment.token_begin)
                                      : segment.focal_count + g);
}

}  // namespace dga::kernels

#include "kernels/common/check.h"
#include "kernels/grouping/compress.cuh"

// One pass over K and V. Bytes a head, rule sequence: read 4 L D (K, V), r groups 2 D (queries) and 4 L (order); write
// 4 (1 - gamma) L D (second list) and 4 (gamma L + groups) D (compact list): 1.11 GB at L = 32K, G = 32, D = 128,
// gamma 0.1, m 16, r 1, which takes 0.37 ms at 2.99 TB/s. Rule block writes no second list: 0.63 GB, 0.21 ms.
namespace dga::kernels {
namespace {

/// Softmax over a group's members, taken 16 at a time: sums are relative to the largest logit so far.
struct PoolState {
  float maximum = -INFINITY;
  float sum = 0;                 // of exp(x - maximum)
  float weighted = 0;            // of exp(x - maximum) (x - maximum)
  Floats8 key = {}, value = {};  // sums of this lane's rows only
};

template <int kHeadDim>
__device__ __forceinline__ void pool_members(PoolState& state, const WarpRows<kHeadDim>& warp, const Floats8& query,
                                             const uint4* keys, const uint4* values, int count) {
  using Rows = WarpRows<kHeadDim>;
  float logits[Rows::kLoads];
  float maximum = state.maximum;
#pragma unroll
  for (int i = 0; i < Rows::kLoads; ++i) {
    const float logit = Rows::row_sum(dot(query, unpack(keys[i]), 0));
    logits[i] = warp.token(i) < count ? logit : -INFINITY;
    maximum = fmaxf(maximum, logits[i]);
  }
  maximum = Rows::column_max(maximum);
  const float change = state.maximum - maximum;  // -infinity at first, where all sums are zero
  const float correction = expf(change);
  state.weighted = state.sum > 0 ? correction * (state.weighted + change * state.sum) : 0;
  float sum = 0, weighted = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    state.key.v[i] *= correction;
    state.value.v[i] *= correction;
  }
#pragma unroll
  for (int i = 0; i < Rows::kLoads; ++i) {
    const float logit = logits[i] - maximum;
    const float weight = expf(logit);
    sum += weight;
    weighted += weight > 0 ? weight * logit : 0;  // 0 ln 0 = 0
    const Floats8 key = unpack(keys[i]), value = unpack(values[i]);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      state.key.v[j] = fmaf(weight, key.v[j], state.key.v[j]);
      state.value.v[j] = fmaf(weight, value.v[j], state.value.v[j]);
    }
  }
  state.sum = state.sum * correction + Rows::column_sum(sum);
  state.weighted += Rows::column_sum(weighted);
  state.maximum = maximum;
}

template <int kHeadDim>
__device__ __forceinline__ void store_rows(const WarpRows<kHeadDim>& warp, const uint4* rows, const LaneRows& list,
                                           int first, int count) {
#pragma unroll
  for (int i = 0; i < WarpRows<kHeadDim>::kLoads; ++i) {
    if (warp.token(i) < count) *list.at(first + warp.token(i)) = rows[i];
  }
}

/// Pools one group into its compact entry and copies its members to the second list.
template <int kHeadDim, bool kOneChunk>
__device__ __forceinline__ void pool_group(const CompressForwardParams& params, const Unit& unit, int head) {
  using Rows = WarpRows<kHeadDim>;
  const CompressParams& common = params.common;
  const SegmentTable& table = common.focal.table;
  const Segment& segment = unit.segment;
  const Rows warp;
  const int first = unit.first * table.group_size;  // of the segment's non-focal tokens
  const LaneRows key(common.key, segment.row, head, warp.column_lane);
  const LaneRows value(common.value, segment.row, head, warp.column_lane);
  const int last = __shfl_sync(kAllLanes, lane_position(common.focal, segment, head, first + unit.count - 1, 1), 0);
  Floats8 query = {};  // equal logits give equal weights
  PoolState state;
  for (int begin = 0; begin < unit.count; begin += kUnitTokens) {
    const int count = kOneChunk ? unit.count : min(kUnitTokens, unit.count - begin);
    const int positions = lane_position(common.focal, segment, head, first + begin, count);
    uint4 keys[Rows::kLoads], values[Rows::kLoads];
    warp.load(keys, key, positions, count);
    warp.load(values, value, positions, count);
    if (begin == 0 && common.pooling == GroupPooling::last_query) {
      query = warp.mean_query(common.query, segment.row, head, group_heads(common.shape), last, common.scale);
    }
    if (table.rule == GroupingRule::sequence) {
      const int second = segment.second_begin + first + begin;
      store_rows(warp, keys, LaneRows(params.second_key, segment.row, head, warp.column_lane), second, count);
      store_rows(warp, values, LaneRows(params.second_value, segment.row, head, warp.column_lane), second, count);
    }
    pool_members(state, warp, query, keys, values, count);
    if (kOneChunk) break;
  }
  const int entry = group_entry(table, SegmentRanks(common.focal, segment, head), segment, unit.first, last);
  const float inverse = 1 / state.sum;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    state.key.v[i] = Rows::column_sum(state.key.v[i]) * inverse;
    state.value.v[i] = Rows::column_sum(state.value.v[i]) * inverse;
  }
  if (warp.row_lane == 0) {
    *LaneRows(params.compact_key, segment.row, head, warp.column_lane).at(entry) = pack(state.key);
  } else if (warp.row_lane == 1) {
    *LaneRows(params.compact_value, segment.row, head, warp.column_lane).at(entry) = pack(state.value);
  }
  if (params.bias != nullptr && threadIdx.x % 32 == 0) {
    // H = ln(sum) - sum of p y, y = x - maximum and p = exp(y) / sum.
    const int64_t offset = (segment.row * common.shape.kv_heads + head) * common.bias_stride;
    params.bias[offset + entry] = logf(state.sum) - state.weighted * inverse;
  }
}

/// Copies up to 16 tokens: focal ones to the compact list, ungrouped ones to the second list.
template <int kHeadDim>
__device__ __forceinline__ void copy_tokens(const CompressForwardParams& params, const Unit& unit, int head) {
  using Rows = WarpRows<kHeadDim>;
  const CompressParams& common = params.common;
  const Segment& segment = unit.segment;
  const Rows warp;
  const bool focal = unit.kind == Unit::focal;
  const int place = focal ? segment.length - segment.focal_count + unit.first : unit.first;
  const int positions = lane_position(common.focal, segment, head, place, unit.count);
  uint4 keys[Rows::kLoads], values[Rows::kLoads];
  warp.load(keys, LaneRows(common.key, segment.row, head, warp.column_lane), positions, unit.count);
  warp.load(values, LaneRows(common.value, segment.row, head, warp.column_lane), positions, unit.count);
  const int lane = threadIdx.x % 32;
  const int entries = focal ? focal_entry(common.focal.table, SegmentRanks(common.focal, segment, head), segment,
                                          unit.first, unit.count, positions)
                            : segment.second_begin + unit.first + lane;
  const LaneRows key_list(focal ? params.compact_key : params.second_key, segment.row, head, warp.column_lane);
  const LaneRows value_list(focal ? params.compact_value : params.second_value, segment.row, head, warp.column_lane);
#pragma unroll
  for (int i = 0; i < Rows::kLoads; ++i) {
    const int entry = __shfl_sync(kAllLanes, entries, warp.token(i));
    if (warp.token(i) < unit.count) {
      *key_list.at(entry) = keys[i];
      *value_list.at(entry) = values[i];
    }
  }
  if (focal && params.bias != nullptr && lane < unit.count) {
    params.bias[(segment.row * common.shape.kv_heads + head) * common.bias_stride + entries] = 0;
  }
}

// Without spills: 128 registers a thread, 168 where sums are kept over several reads.
template <int kHeadDim, bool kOneChunk>
__global__ void __launch_bounds__(32 * kCompressWarps, kOneChunk ? 4 : 3)
    compress_forward_kernel(const __grid_constant__ CompressForwardParams params) {
  const SegmentTable& table = params.common.focal.table;
  const WarpWork work(static_cast<int>(params.common.shape.kv_heads));
  if (work.unit >= table.unit_count) return;
  const Unit unit = find_unit(table, work.unit);
  if (unit.kind == Unit::group) {
    pool_group<kHeadDim, kOneChunk>(params, unit, work.head);
  } else {
    copy_tokens<kHeadDim>(params, unit, work.head);
  }
}

template <int kHeadDim>
__device__ __forceinline__ void zero_rows(const TensorRef& list, int row, int head, int begin, int64_t end) {
  constexpr int kLanes = kHeadDim / 8;
  const int index = blockIdx.z * blockDim.x + threadIdx.x;
  const LaneRows rows(list, row, head, index % kLanes);
  for (int64_t i = begin + index / kLanes; i < end; i += gridDim.z * blockDim.x / kLanes) {
    *rows.at(static_cast<int>(i)) = make_uint4(0, 0, 0, 0);
  }
}

/// Zeros what lies behind the end of a row's lists: the attention kernel multiplies it by probabilities of zero.
template <int kHeadDim>
__global__ void __launch_bounds__(256) pad_lists_kernel(const __grid_constant__ CompressForwardParams params) {
  const CompressParams& common = params.common;
  const SegmentTable& table = common.focal.table;
  const int head = blockIdx.x, row = blockIdx.y;
  const Segment segment = table.segments[table.row_begins[row + 1] - 1];
  const int compact_end = segment.compact_begin + segment.focal_count + segment.group_count;
  zero_rows<kHeadDim>(params.compact_key, row, head, compact_end, common.shape.compact_length);
  zero_rows<kHeadDim>(params.compact_value, row, head, compact_end, common.shape.compact_length);
  if (table.rule == GroupingRule::sequence) {
    const int second_end = segment.second_begin + segment.length - segment.focal_count;
    zero_rows<kHeadDim>(params.second_key, row, head, second_end, common.shape.second_length);
    zero_rows<kHeadDim>(params.second_value, row, head, second_end, common.shape.second_length);
  }
  if (params.bias == nullptr) return;
  float* bias = params.bias + (row * common.shape.kv_heads + head) * common.bias_stride;
  for (int64_t i = compact_end + static_cast<int64_t>(blockIdx.z * blockDim.x + threadIdx.x); i < common.bias_stride;
       i += gridDim.z * blockDim.x) {
    bias[i] = 0;
  }
}

template <int kHeadDim>
void launch(const CompressForwardParams& params, cudaStream_t stream) {
  const Shape& shape = params.common.shape;
  const SegmentTable& table = params.common.focal.table;
  const unsigned blocks = compress_blocks(table, shape.kv_heads);
  if (blocks > 0 && table.group_size <= kUnitTokens) {
    compress_forward_kernel<kHeadDim, true><<<blocks, 32 * kCompressWarps, 0, stream>>>(params);
  } else if (blocks > 0) {
    compress_forward_kernel<kHeadDim, false><<<blocks, 32 * kCompressWarps, 0, stream>>>(params);
  }
  DGA_CUDA_CHECK(cudaGetLastError());
  const dim3 pad_blocks(static_cast<unsigned>(shape.kv_heads), static_cast<unsigned>(shape.batch), 4);
  pad_lists_kernel<kHeadDim><<<pad_blocks, 256, 0, stream>>>(params);
  DGA_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void compress_forward(const CompressForwardParams& params, cudaStream_t stream) {
  if (params.common.shape.batch * params.common.shape.kv_heads == 0) return;
  if (params.common.shape.head_dim == 64) return launch<64>(params, stream);
  if (params.common.shape.head_dim == 128) return launch<128>(params, stream);
  throw std::runtime_error("compress_forward: head_dim must be 64 or 128, got " +
                           std::to_string(params.common.shape.head_dim));
}

}  // namespace dga::kernels

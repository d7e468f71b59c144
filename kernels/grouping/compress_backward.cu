#include "kernels/common/check.h"
#include "kernels/grouping/compress.cuh"

// One pass over K, V and the lists' gradients. Bytes a head, rule sequence: read 4 (1 - gamma) L D (K, V of grouped
// tokens), 4 (1 - gamma) L D + 4 (gamma L + groups) D (gradients), write 4 L D: 1.60 GB at L = 32K, G = 32, D = 128,
// gamma 0.1, m 16, which takes 0.53 ms at 2.99 TB/s. Rule block reads and writes the second list's gradients in place:
// as many bytes and 4 gamma L D more.
//
// With the group's gradients dK, dV and dH (of the entropy), weights P, logits x_i = scale q.k_i and q the mean query:
//   dP_i = dK.k_i + dV.v_i
//   dx_i = P_i (dP_i - sum P dP) - dH P_i (ln P_i + H)
//   dk_i = P_i dK + dx_i scale q,   dv_i = P_i dV,   dq = scale sum dx_i k_i.
// The second list's gradient of the token itself is added to dk_i and dv_i before the one rounding to bf16.
namespace dga::kernels {
namespace {

/// Running sums over a group's members, relative to the largest logit so far.
struct GroupSums {
  float maximum = -INFINITY;
  float sum = 0;       // of e = exp(x - maximum)
  float weighted = 0;  // of e (x - maximum)
  float product = 0;   // of e dP
};

/// Logits and dP of the members whose rows a lane holds, one a load.
template <int kHeadDim>
struct MemberTerms {
  float logit[WarpRows<kHeadDim>::kLoads];
  float product[WarpRows<kHeadDim>::kLoads];
};

template <int kHeadDim>
__device__ __forceinline__ void member_terms(MemberTerms<kHeadDim>& terms, const WarpRows<kHeadDim>& warp,
                                             const uint4* keys, const uint4* values, const Floats8& query,
                                             const Floats8& grad_key, const Floats8& grad_value, int count) {
  using Rows = WarpRows<kHeadDim>;
#pragma unroll
  for (int i = 0; i < Rows::kLoads; ++i) {
    const Floats8 key = unpack(keys[i]);
    const float logit = Rows::row_sum(dot(query, key, 0));
    terms.logit[i] = warp.token(i) < count ? logit : -INFINITY;
    terms.product[i] = Rows::row_sum(dot(grad_value, unpack(values[i]), dot(grad_key, key, 0)));
  }
}

template <int kHeadDim>
__device__ __forceinline__ void add_members(GroupSums& sums, const MemberTerms<kHeadDim>& terms) {
  using Rows = WarpRows<kHeadDim>;
  float maximum = sums.maximum;
#pragma unroll
  for (int i = 0; i < Rows::kLoads; ++i) maximum = fmaxf(maximum, terms.logit[i]);
  maximum = Rows::column_max(maximum);
  const float change = sums.maximum - maximum;  // -infinity at first, where all sums are zero
  const float correction = expf(change);
  float sum = 0, weighted = 0, product = 0;
#pragma unroll
  for (int i = 0; i < Rows::kLoads; ++i) {
    const float y = terms.logit[i] - maximum;
    const float e = expf(y);
    sum += e;
    weighted += e > 0 ? e * y : 0;  // 0 ln 0 = 0
    product = fmaf(e, terms.product[i], product);
  }
  sums.weighted = (sums.sum > 0 ? correction * (sums.weighted + change * sums.sum) : 0) + Rows::column_sum(weighted);
  sums.sum = sums.sum * correction + Rows::column_sum(sum);
  sums.product = sums.product * correction + Rows::column_sum(product);
  sums.maximum = maximum;
}

/// Adds dq / r to the rows of the r query heads at the group's last member; a row belongs to one group of a KV head.
template <int kHeadDim>
__device__ __forceinline__ void add_query_gradient(const CompressBackwardParams& params, const WarpRows<kHeadDim>& warp,
                                                   Floats8 grad, int row, int head, int last) {
  using Rows = WarpRows<kHeadDim>;
  const int heads = group_heads(params.common.shape);
  const float factor = params.common.scale / static_cast<float>(heads);
#pragma unroll
  for (int i = 0; i < 8; ++i) grad.v[i] = Rows::column_sum(grad.v[i]) * factor;
  for (int h = warp.row_lane; h < heads; h += Rows::kRows) {
    uint4* target = LaneRows(params.grad_query, row, head * heads + h, warp.column_lane).at(last);
    Floats8 sum = unpack(*target);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum.v[i] += grad.v[i];
    *target = pack(sum);
  }
}

/// target row = source row + a * x + b * y for the rows of a unit.
template <int kHeadDim>
struct RowGradients {
  using Rows = WarpRows<kHeadDim>;
  LaneRows source, target;
  bool in_place;     // the source rows are the target's own
  int source_first;  // else they follow each other from here

  __device__ __forceinline__ void load(uint4 (&rows)[Rows::kLoads], const Rows& warp, int positions, int count) const {
#pragma unroll
    for (int i = 0; i < Rows::kLoads; ++i) {
      const int position = __shfl_sync(kAllLanes, positions, warp.token(i));
      rows[i] = make_uint4(0, 0, 0, 0);
      if (warp.token(i) < count) rows[i] = *source.at(in_place ? position : source_first + warp.token(i));
    }
  }
};

/// The source of the gradients that a unit's tokens have from the second list.
template <int kHeadDim>
__device__ __forceinline__ RowGradients<kHeadDim> second_gradients(const CompressBackwardParams& params,
                                                                   const TensorRef& list, const TensorRef& target,
                                                                   const Segment& segment, int head, int column_lane,
                                                                   int first) {
  const bool in_place = params.common.focal.table.rule == GroupingRule::block;
  return {LaneRows(in_place ? target : list, segment.row, head, column_lane),
          LaneRows(target, segment.row, head, column_lane), in_place, segment.second_begin + first};
}

template <int kHeadDim, bool kOneChunk>
__device__ __forceinline__ void spread_group(const CompressBackwardParams& params, const Unit& unit, int head) {
  using Rows = WarpRows<kHeadDim>;
  const CompressParams& common = params.common;
  const SegmentTable& table = common.focal.table;
  const Segment& segment = unit.segment;
  const Rows warp;
  const int first = unit.first * table.group_size;
  const bool weighted = common.pooling == GroupPooling::last_query;
  const int last = __shfl_sync(kAllLanes, lane_position(common.focal, segment, head, first + unit.count - 1, 1), 0);
  const int entry = group_entry(table, SegmentRanks(common.focal, segment, head), segment, unit.first, last);
  const LaneRows key(common.key, segment.row, head, warp.column_lane);
  const LaneRows value(common.value, segment.row, head, warp.column_lane);
  const Floats8 grad_key =
      unpack(__ldg(LaneRows(params.grad_compact_key, segment.row, head, warp.column_lane).at(entry)));
  const Floats8 grad_value =
      unpack(__ldg(LaneRows(params.grad_compact_value, segment.row, head, warp.column_lane).at(entry)));
  const float grad_entropy =
      params.grad_bias == nullptr
          ? 0
          : __ldg(params.grad_bias + (segment.row * common.shape.kv_heads + head) * common.bias_stride + entry);
  Floats8 query = {};
  uint4 keys[Rows::kLoads], values[Rows::kLoads];
  MemberTerms<kHeadDim> terms;
  GroupSums sums;
  if (weighted) {
    for (int begin = 0; begin < unit.count; begin += kUnitTokens) {
      const int count = kOneChunk ? unit.count : min(kUnitTokens, unit.count - begin);
      const int positions = lane_position(common.focal, segment, head, first + begin, count);
      warp.load(keys, key, positions, count);
      warp.load(values, value, positions, count);
      if (begin == 0) {
        query = warp.mean_query(common.query, segment.row, head, group_heads(common.shape), last, common.scale);
      }
      member_terms(terms, warp, keys, values, query, grad_key, grad_value, count);
      add_members(sums, terms);
      if (kOneChunk) break;
    }
  }
  const float inverse = weighted ? 1 / sums.sum : 1 / static_cast<float>(unit.count);
  const float log_sum = weighted ? logf(sums.sum) : 0;
  const float mean_product = sums.product * inverse;
  const float entropy = log_sum - sums.weighted * inverse;

  Floats8 grad_query = {};
  for (int begin = 0; begin < unit.count; begin += kUnitTokens) {
    const int count = kOneChunk ? unit.count : min(kUnitTokens, unit.count - begin);
    const int positions = lane_position(common.focal, segment, head, first + begin, count);
    if (!kOneChunk && weighted) {
      warp.load(keys, key, positions, count);
      warp.load(values, value, positions, count);
      member_terms(terms, warp, keys, values, query, grad_key, grad_value, count);
    }
    float weights[Rows::kLoads], grad_logits[Rows::kLoads];
#pragma unroll
    for (int i = 0; i < Rows::kLoads; ++i) {
      weights[i] = inverse;
      grad_logits[i] = 0;
      if (weighted && warp.token(i) < count) {
        const float y = terms.logit[i] - sums.maximum;
        weights[i] = expf(y) * inverse;
        grad_logits[i] = weights[i] * (terms.product[i] - mean_product - grad_entropy * (y - log_sum + entropy));
        const Floats8 row = unpack(keys[i]);
#pragma unroll
        for (int j = 0; j < 8; ++j) grad_query.v[j] = fmaf(grad_logits[i], row.v[j], grad_query.v[j]);
      }
    }
    const auto key_gradients = second_gradients<kHeadDim>(params, params.grad_second_key, params.grad_key, segment,
                                                          head, warp.column_lane, first + begin);
    const auto value_gradients = second_gradients<kHeadDim>(params, params.grad_second_value, params.grad_value,
                                                            segment, head, warp.column_lane, first + begin);
    uint4 key_rows[Rows::kLoads], value_rows[Rows::kLoads];
    key_gradients.load(key_rows, warp, positions, count);
    value_gradients.load(value_rows, warp, positions, count);
#pragma unroll
    for (int i = 0; i < Rows::kLoads; ++i) {
      Floats8 key_row = unpack(key_rows[i]), value_row = unpack(value_rows[i]);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        key_row.v[j] = fmaf(weights[i], grad_key.v[j], fmaf(grad_logits[i], query.v[j], key_row.v[j]));
        value_row.v[j] = fmaf(weights[i], grad_value.v[j], value_row.v[j]);
      }
      const int position = __shfl_sync(kAllLanes, positions, warp.token(i));
      if (warp.token(i) < count) {
        *key_gradients.target.at(position) = pack(key_row);
        *value_gradients.target.at(position) = pack(value_row);
      }
    }
    if (kOneChunk) break;
  }
  if (weighted) add_query_gradient(params, warp, grad_query, segment.row, head, last);
}

/// Gradients of tokens that stand for themselves in one list: copied, under rule block added to what is there.
template <int kHeadDim>
__device__ __forceinline__ void copy_gradients(const CompressBackwardParams& params, const Unit& unit, int head) {
  using Rows = WarpRows<kHeadDim>;
  const CompressParams& common = params.common;
  const Segment& segment = unit.segment;
  const Rows warp;
  const bool focal = unit.kind == Unit::focal;
  const int place = focal ? segment.length - segment.focal_count + unit.first : unit.first;
  const int positions = lane_position(common.focal, segment, head, place, unit.count);
  const int entries = focal ? focal_entry(common.focal.table, SegmentRanks(common.focal, segment, head), segment,
                                          unit.first, unit.count, positions)
                            : segment.second_begin + unit.first + static_cast<int>(threadIdx.x % 32);
  const bool adds = common.focal.table.rule == GroupingRule::block;
#pragma unroll
  for (int tensor = 0; tensor < 2; ++tensor) {
    const TensorRef& list = tensor == 0 ? (focal ? params.grad_compact_key : params.grad_second_key)
                                        : (focal ? params.grad_compact_value : params.grad_second_value);
    const LaneRows source(list, segment.row, head, warp.column_lane);
    const LaneRows target(tensor == 0 ? params.grad_key : params.grad_value, segment.row, head, warp.column_lane);
    uint4 rows[Rows::kLoads];
    warp.load(rows, source, entries, unit.count);
#pragma unroll
    for (int i = 0; i < Rows::kLoads; ++i) {
      const int position = __shfl_sync(kAllLanes, positions, warp.token(i));
      if (warp.token(i) >= unit.count) continue;
      if (adds) {
        Floats8 sum = unpack(*target.at(position));
        const Floats8 added = unpack(rows[i]);
#pragma unroll
        for (int j = 0; j < 8; ++j) sum.v[j] += added.v[j];
        rows[i] = pack(sum);
      }
      *target.at(position) = rows[i];
    }
  }
}

// Without spills: 168 registers a thread, 255 where rows are read twice.
template <int kHeadDim, bool kOneChunk>
__global__ void __launch_bounds__(32 * kCompressWarps, kOneChunk ? 3 : 2)
    compress_backward_kernel(const __grid_constant__ CompressBackwardParams params) {
  const SegmentTable& table = params.common.focal.table;
  const WarpWork work(static_cast<int>(params.common.shape.kv_heads));
  if (work.unit >= table.unit_count) return;
  const Unit unit = find_unit(table, work.unit);
  if (unit.kind == Unit::group) {
    spread_group<kHeadDim, kOneChunk>(params, unit, work.head);
  } else {
    copy_gradients<kHeadDim>(params, unit, work.head);
  }
}

template <int kHeadDim>
void launch(const CompressBackwardParams& params, cudaStream_t stream) {
  const SegmentTable& table = params.common.focal.table;
  const unsigned blocks = compress_blocks(table, params.common.shape.kv_heads);
  if (blocks == 0) return;
  if (table.group_size <= kUnitTokens) {
    compress_backward_kernel<kHeadDim, true><<<blocks, 32 * kCompressWarps, 0, stream>>>(params);
  } else {
    compress_backward_kernel<kHeadDim, false><<<blocks, 32 * kCompressWarps, 0, stream>>>(params);
  }
  DGA_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void compress_backward(const CompressBackwardParams& params, cudaStream_t stream) {
  if (params.common.shape.batch * params.common.shape.kv_heads == 0) return;
  if (params.common.shape.head_dim == 64) return launch<64>(params, stream);
  if (params.common.shape.head_dim == 128) return launch<128>(params, stream);
  throw std::runtime_error("compress_backward: head_dim must be 64 or 128, got " +
                           std::to_string(params.common.shape.head_dim));
}

}  // namespace dga::kernels

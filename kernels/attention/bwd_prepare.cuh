#pragma once

#include <cuda_bf16.h>

#include "kernels/attention/ranges.cuh"

// What the backward kernel needs beforehand and leaves behind: delta = sum over D of dO * O, the log-sum-exp in base 2
// padded to whole tiles, the query interval of every key, and the conversion of the fp32 dQ accumulator.
namespace dga::kernels {

struct PrepareArgs {
  const __nv_bfloat16 *output, *grad_output;
  int64_t output_strides[3], grad_output_strides[3];  // batch, row, head
  const float* log_sum_exp;                           // [B, H, L]
  float* log_sum_exp_log2;                            // [B, H, padded]
  float* delta;                                       // [B, H, padded]
  float4* grad_query;                                 // [B, H, query tiles, 64 * D], zeroed
  int length, heads, query_tiles;
};

/// One block of 256 threads per 64 queries of a head: four threads a row. Padded rows get an infinite log-sum-exp,
/// which makes their probabilities zero.
template <int kHeadDim>
__global__ void __launch_bounds__(256) backward_prepare_kernel(const PrepareArgs args) {
  const int tile = blockIdx.x, head = blockIdx.y, batch = blockIdx.z;
  const int local_row = threadIdx.x / 4, lane = threadIdx.x % 4;
  const int row = tile * 64 + local_row;
  const int64_t batch_head = static_cast<int64_t>(batch) * args.heads + head;
  float sum = 0;
  if (row < args.length) {
    const __nv_bfloat16* output =
        args.output + batch * args.output_strides[0] + row * args.output_strides[1] + head * args.output_strides[2];
    const __nv_bfloat16* grad = args.grad_output + batch * args.grad_output_strides[0] +
                                row * args.grad_output_strides[1] + head * args.grad_output_strides[2];
#pragma unroll
    for (int i = 0; i < kHeadDim / 32; ++i) {
      const uint4 a = *reinterpret_cast<const uint4*>(output + (4 * i + lane) * 8);
      const uint4 b = *reinterpret_cast<const uint4*>(grad + (4 * i + lane) * 8);
      const auto* pairs_a = reinterpret_cast<const __nv_bfloat162*>(&a);
      const auto* pairs_b = reinterpret_cast<const __nv_bfloat162*>(&b);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 x = __bfloat1622float2(pairs_a[j]), y = __bfloat1622float2(pairs_b[j]);
        sum += x.x * y.x + x.y * y.y;
      }
    }
  }
  sum += __shfl_xor_sync(0xffffffff, sum, 1);
  sum += __shfl_xor_sync(0xffffffff, sum, 2);
  if (lane == 0) {
    const int64_t padded = batch_head * args.query_tiles * 64 + row;
    args.delta[padded] = sum;
    args.log_sum_exp_log2[padded] =
        row < args.length ? args.log_sum_exp[batch_head * args.length + row] * 1.4426950408889634f : INFINITY;
  }
  float4* accumulator = args.grad_query + (batch_head * args.query_tiles + tile) * (64 * kHeadDim / 4);
#pragma unroll
  for (int i = 0; i < 64 * kHeadDim / 4 / 256; ++i) accumulator[i * 256 + threadIdx.x] = make_float4(0, 0, 0, 0);
}

/// First index in the non-decreasing values[0, count) whose value is above `limit`.
__device__ __forceinline__ int first_above(const int32_t* values, int count, int limit) {
  int low = 0;
  while (low < count) {
    const int middle = low + (count - low) / 2;
    if (values[middle] > limit) {
      count = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

/// One thread per key of both lists: the queries [x, y) that see it, one interval because the bounds never decrease.
__global__ void __launch_bounds__(128)
    visible_queries_kernel(Bounds bounds, int length, int compact_length, int second_length, int2* visible) {
  const int keys = compact_length + second_length;
  const int place = blockIdx.x * 128 + threadIdx.x;
  if (place >= keys) return;
  const int64_t offset = static_cast<int64_t>(blockIdx.y) * length;
  const bool compact = place < compact_length;
  const int key = compact ? place : place - compact_length;
  const int32_t* begins = compact ? bounds.first_begin : bounds.second_begin;
  const int32_t* ends = compact ? bounds.first_end : bounds.second_end;
  visible[static_cast<int64_t>(blockIdx.y) * keys + place] = make_int2(
      first_above(ends + offset, length, key), begins == nullptr ? length : first_above(begins + offset, length, key));
}

/// One thread per query tile of a KV head: where the key tiles of the two lists stand in the deterministic order, those
/// of the compact list first (BackwardArgs::turns).
__global__ void __launch_bounds__(128)
    turns_kernel(Bounds bounds, int length, int query_tiles, int second_block, int2* turns) {
  const int tile = blockIdx.x * 128 + threadIdx.x;
  if (tile >= query_tiles) return;
  const int64_t offset = static_cast<int64_t>(blockIdx.y) * length;
  const RowBounds first = load_bounds(bounds, offset, tile * 64);
  const RowBounds last = load_bounds(bounds, offset, min(tile * 64 + 64, length) - 1);
  const int compact_tiles = max((last.first_end + 127) / 128 - first.first_begin / 128, 0);
  turns[static_cast<int64_t>(blockIdx.y) * query_tiles + tile] =
      make_int2(-(first.first_begin / 128), compact_tiles - first.second_begin / second_block);
}

struct FinishArgs {
  const float4* grad_query;  // accumulator, as the backward kernel writes it
  __nv_bfloat16* output;
  int64_t strides[3];  // batch, row, head
  int length, heads, query_tiles;
  float scale;
};

/// dQ from accumulator order to bf16 rows. One block of 256 threads per 64 queries of a head.
template <int kHeadDim>
__global__ void __launch_bounds__(256) backward_finish_kernel(const FinishArgs args) {
  constexpr int kColumns = kHeadDim / 2;  // of one warpgroup
  constexpr int kVectors = kColumns / 8;  // float4 a thread of a warpgroup
  __shared__ __align__(16) __nv_bfloat16 rows[64][kHeadDim + 8];
  const int tile = blockIdx.x, head = blockIdx.y, batch = blockIdx.z;
  const int consumer = threadIdx.x / 128, thread = threadIdx.x % 128;
  const float4* source =
      args.grad_query +
      ((static_cast<int64_t>(batch) * args.heads + head) * args.query_tiles + tile) * (64 * kHeadDim / 4) +
      consumer * (64 * kColumns / 4);
  const int row = thread / 32 * 16 + thread % 32 / 4;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const float4 value = source[i * 128 + thread];
    const int column = consumer * kColumns + 8 * i + 2 * (thread % 4);
    *reinterpret_cast<__nv_bfloat162*>(&rows[row][column]) =
        __floats2bfloat162_rn(value.x * args.scale, value.y * args.scale);
    *reinterpret_cast<__nv_bfloat162*>(&rows[row + 8][column]) =
        __floats2bfloat162_rn(value.z * args.scale, value.w * args.scale);
  }
  __syncthreads();
  constexpr int kChunks = kHeadDim / 8;
  for (int i = threadIdx.x; i < 64 * kChunks; i += 256) {
    const int local = i / kChunks, chunk = i % kChunks;
    const int query = tile * 64 + local;
    if (query < args.length) {
      __nv_bfloat16* target = args.output + batch * args.strides[0] + query * args.strides[1] + head * args.strides[2];
      *reinterpret_cast<uint4*>(target + chunk * 8) = *reinterpret_cast<const uint4*>(&rows[local][chunk * 8]);
    }
  }
}

}  // namespace dga::kernels

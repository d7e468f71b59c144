#include <cuda_bf16.h>

#include "kernels/attention/tensor_map.h"
#include "kernels/common/check.h"
#include "kernels/common/hopper.cuh"
#include "kernels/common/wgmma.cuh"
#include "kernels/grouping/score.h"

// One thread block owns the keys of one block and KV head; its two warpgroups take tiles of 64 queries in turn. A
// tile's scores against all keys of the block fit in registers, so that the softmax of a query needs one pass; named
// barriers let the softmax of one warpgroup run under the products of the other. Cost: L (n + 1) B pairs a head, 2 D
// FLOP each: 344 GFLOP for L = 32K, n = 4, B = 256, 32 heads, D = 128.
namespace dga::kernels {
namespace {

constexpr int kKeys = kMaxScoredBlock;
constexpr int kQueries = 64;
constexpr int kStages = 2;  // of each warpgroup

template <int kHeadDim>
struct BlockScoreShared {
  alignas(1024) __nv_bfloat16 key[kHeadDim / 64][kKeys][64];
  alignas(1024) __nv_bfloat16 query[2][kStages][kHeadDim / 64][kQueries][64];
  float sums[8][kKeys];  // of each warp
  uint64_t key_full, query_full[2][kStages];
};

struct BlockScoreArgs {
  CUtensorMap query, key;
  SegmentTable table;
  float* importance;
  int length, heads, kv_heads, local_blocks;
  float scale_log2;
};

/// Adds a tile's probabilities to the column sums. `visible[r]` counts the keys of the block that row r sees; a row
/// that sees none adds nothing.
__device__ __forceinline__ void add_probabilities(float (&low)[64], float (&high)[64], const int (&visible)[2],
                                                  float scale_log2, float (&sums)[64]) {
  const int column = 2 * (threadIdx.x % 4);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int end = visible[r] - column;
    if (visible[r] < kKeys) {
#pragma unroll
      for (int i = 0; i < 16; ++i) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          if (8 * i + c >= end) low[4 * i + 2 * r + c] = -INFINITY;
          if (128 + 8 * i + c >= end) high[4 * i + 2 * r + c] = -INFINITY;
        }
      }
    }
    float maximum = -INFINITY;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        maximum = fmaxf(maximum, fmaxf(low[4 * i + 2 * r + c], high[4 * i + 2 * r + c]));
      }
    }
    maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffff, maximum, 1));
    maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffff, maximum, 2));
    const float offset = maximum == -INFINITY ? 0.0f : maximum * scale_log2;
    float total = 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& first = low[4 * i + 2 * r + c];
        float& second = high[4 * i + 2 * r + c];
        first = sm90::exp2_approximate(fmaf(first, scale_log2, -offset));
        second = sm90::exp2_approximate(fmaf(second, scale_log2, -offset));
        total += first + second;
      }
    }
    total += __shfl_xor_sync(0xffffffff, total, 1);
    total += __shfl_xor_sync(0xffffffff, total, 2);
    const float inverse = total > 0 ? 1.0f / total : 0.0f;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        sums[2 * i + c] = fmaf(low[4 * i + 2 * r + c], inverse, sums[2 * i + c]);
        sums[32 + 2 * i + c] = fmaf(high[4 * i + 2 * r + c], inverse, sums[32 + 2 * i + c]);
      }
    }
  }
}

template <int kHeadDim>
__global__ void __launch_bounds__(256, 1) score_blocks_kernel(const __grid_constant__ BlockScoreArgs args) {
  auto& shared = sm90::dynamic_shared<BlockScoreShared<kHeadDim>>();
  const Segment block = args.table.segments[blockIdx.x];
  if (block.focal_count + block.group_count == 0) return;  // never divided
  const int kv_head = blockIdx.y;
  const int group = args.heads / args.kv_heads;
  const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / 128, 0), thread = threadIdx.x % 128;
  if (threadIdx.x == 0) {
    sm90::barrier_init(&shared.key_full, 1);
    for (int i = 0; i < 2 * kStages; ++i) sm90::barrier_init(&shared.query_full[i % 2][i / 2], 1);
    sm90::barrier_init_fence();
  }
  __syncthreads();

  // A divided block has `local_blocks` whole blocks of its sequence behind it.
  const int queries = (args.local_blocks + 1) * block.length;
  const int tiles = (queries + kQueries - 1) / kQueries;
  const int steps = tiles * group;
  const auto load_query = [&](int step) {
    const int stage = step / 2 % kStages;
    uint64_t* barrier = &shared.query_full[warpgroup][stage];
    sm90::barrier_arrive_expect_bytes(barrier, kQueries * kHeadDim * sizeof(__nv_bfloat16));
    for (int part = 0; part < kHeadDim / 64; ++part) {
      sm90::tensor_load(&shared.query[warpgroup][stage][part][0][0], &args.query, barrier, part * 64,
                        block.token_begin + step % tiles * kQueries, kv_head * group + step / tiles, block.row);
    }
  };
  if (thread == 0) {
    if (warpgroup == 0) {
      sm90::barrier_arrive_expect_bytes(&shared.key_full, kKeys * kHeadDim * sizeof(__nv_bfloat16));
      for (int part = 0; part < kHeadDim / 64; ++part) {
        sm90::tensor_load(&shared.key[part][0][0], &args.key, &shared.key_full, part * 64, block.token_begin, kv_head,
                          block.row);
      }
    }
    for (int step = warpgroup; step < min(2 * kStages, steps); step += 2) load_query(step);
  }
  float sums[64] = {};
  sm90::barrier_wait(&shared.key_full, 0);
  // The warpgroups take turns, also where the second has no tile left: what it computes then is seen by no query.
  if (warpgroup == 1) sm90::named_barrier_arrive(3, 256);
#pragma unroll 1
  for (int step = warpgroup; step < steps + warpgroup; step += 2) {
    const int stage = step / 2 % kStages;
    if (step < steps) sm90::barrier_wait(&shared.query_full[warpgroup][stage], step / 2 / kStages & 1);
    sm90::named_barrier_sync(3 + warpgroup, 256);
    float low[64], high[64];
    const uint64_t query = sm90::descriptor_k_major(&shared.query[warpgroup][stage][0][0][0]);
    const uint64_t key = sm90::descriptor_k_major(&shared.key[0][0][0]);
    sm90::fence_registers(low);
    sm90::fence_registers(high);
    sm90::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
      const uint64_t a = sm90::descriptor_advance(query, k / 4 * (kQueries * 128) + k % 4 * 32);
      const uint32_t offset = k / 4 * (kKeys * 128) + k % 4 * 32;
      sm90::wgmma_ss<0, 0>(low, a, sm90::descriptor_advance(key, offset), k != 0);
      sm90::wgmma_ss<0, 0>(high, a, sm90::descriptor_advance(key, offset + 128 * 128), k != 0);
    }
    sm90::wgmma_commit();
    sm90::named_barrier_arrive(4 - warpgroup, 256);
    sm90::wgmma_wait<0>();
    sm90::fence_registers(low);
    sm90::fence_registers(high);
    sm90::named_barrier_sync(1 + warpgroup, 128);  // the warpgroup has read its queries
    if (thread == 0 && step + 2 * kStages < steps) load_query(step + 2 * kStages);
    int visible[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int query_index = step % tiles * kQueries + thread / 32 * 16 + thread % 32 / 4 + 8 * r;
      visible[r] = step < steps && query_index < queries ? min(query_index + 1, block.length) : 0;
    }
    add_probabilities(low, high, visible, args.scale_log2, sums);
  }

#pragma unroll
  for (int i = 0; i < 64; ++i) {
    sums[i] += __shfl_xor_sync(0xffffffff, sums[i], 4);
    sums[i] += __shfl_xor_sync(0xffffffff, sums[i], 8);
    sums[i] += __shfl_xor_sync(0xffffffff, sums[i], 16);
  }
  if (threadIdx.x % 32 < 4) {
#pragma unroll
    for (int i = 0; i < 64; ++i) {
      shared.sums[threadIdx.x / 32][i / 32 * 128 + i % 32 / 2 * 8 + 2 * (threadIdx.x % 4) + i % 2] = sums[i];
    }
  }
  __syncthreads();
  if (threadIdx.x < block.length) {
    float total = 0;
    for (int warp = 0; warp < 8; ++warp) total += shared.sums[warp][threadIdx.x];
    args.importance[(static_cast<int64_t>(block.row) * args.kv_heads + kv_head) * args.length + block.token_begin +
                    threadIdx.x] = total;
  }
}

template <int kHeadDim>
void launch(const BlockScoreParams& params, cudaStream_t stream) {
  const Shape& shape = params.shape;
  BlockScoreArgs args{};
  args.query = make_tensor_map(params.query, shape.batch, shape.length, shape.heads, kHeadDim, kQueries);
  args.key = make_tensor_map(params.key, shape.batch, shape.length, shape.kv_heads, kHeadDim, kKeys);
  args.table = params.table;
  args.importance = params.importance;
  args.length = static_cast<int>(shape.length);
  args.heads = static_cast<int>(shape.heads);
  args.kv_heads = static_cast<int>(shape.kv_heads);
  args.local_blocks = static_cast<int>(params.local_blocks);
  args.scale_log2 = params.scale * 1.4426950408889634f;
  const int shared_bytes = static_cast<int>(sizeof(BlockScoreShared<kHeadDim>));
  const auto kernel = score_blocks_kernel<kHeadDim>;
  DGA_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  kernel<<<dim3(args.table.segment_count, args.kv_heads), 256, shared_bytes, stream>>>(args);
  DGA_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void score_blocks(const BlockScoreParams& params, cudaStream_t stream) {
  params.shape.head_dim == 128 ? launch<128>(params, stream) : launch<64>(params, stream);
}

}  // namespace dga::kernels

#pragma once

#include <cuda_bf16.h>

#include "kernels/attention/ranges.cuh"
#include "kernels/common/bf16.cuh"
#include "kernels/common/hopper.cuh"
#include "kernels/common/wgmma.cuh"

// Forward kernel for Hopper. A block computes tiles of 128 queries of one head, one after another, the next being
// whichever no block has taken yet, and loads its queries and keys while it finishes the one before: one producer
// warpgroup streams key and value tiles with bulk tensor copies, two consumer warpgroups hold 64 queries each. Within a
// warpgroup the product Q K^T of the next tile and P V of this one run while the softmax is computed; across the two,
// named barriers let the softmax of one run under the products of the other.
namespace dga::kernels {

template <int kHeadDim>
struct ForwardTile {
  static constexpr int kBlockM = 128;  // queries a block: 64 a consumer warpgroup, what one wgmma takes
  static constexpr int kBlockN =
      128;                            // keys a tile: 64 + 64 + 32 accumulator and operand registers a thread at D = 128
  static constexpr int kStages = 2;   // two tiles of K and V in flight: 128 KiB at D = 128
  static constexpr int kBuffers = 2;  // of queries: 64 KiB
  static constexpr int kConsumers = 2;
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static constexpr int kColumnBlocks = kHeadDim / 64;  // a swizzled row is 128 bytes, 64 elements
};

template <int kHeadDim>
struct ForwardShared {
  using Tile = ForwardTile<kHeadDim>;
  alignas(1024) __nv_bfloat16 query[Tile::kBuffers][Tile::kColumnBlocks][Tile::kBlockM][64];  // reused for the output
  alignas(1024) __nv_bfloat16 key[Tile::kStages][Tile::kColumnBlocks][Tile::kBlockN][64];
  alignas(1024) __nv_bfloat16 value[Tile::kStages][Tile::kColumnBlocks][Tile::kBlockN][64];
  alignas(128) float bias[Tile::kStages][Tile::kBlockN];
  int work[Tile::kBuffers];  // whose queries the buffer holds; args.works after the last
  RowBounds first_row[Tile::kBuffers], last_row[Tile::kBuffers];
  uint64_t query_full[Tile::kBuffers], query_empty[Tile::kBuffers];
  uint64_t key_full[Tile::kStages], key_empty[Tile::kStages];
  uint64_t value_full[Tile::kStages], value_empty[Tile::kStages];
};

struct ForwardArgs {
  CUtensorMap query, compact_key, compact_value, second_key, second_value, bias, output;
  Bounds bounds;
  float* log_sum_exp;
  int length, heads, kv_heads, query_tiles, heads_per_section;
  int works;         // query tiles of all heads
  int* counter;      // how many of them were taken after each block's first
  float scale_log2;  // scale * log2(e)
};

/// How many threads of a consumer warpgroup say that they need a key tile no longer. The product that reads the keys is
/// the warpgroup's, so one is enough; the bias each warp reads for itself.
template <bool kBias>
constexpr int kKeyReaders = kBias ? 4 : 1;

struct BlockWork {
  int tile, head, kv_head, batch;
};

/// Heads are taken in sections whose keys and values stay in L2; within a section the longest query tiles come first.
__device__ __forceinline__ BlockWork block_work(const ForwardArgs& args, int index) {
  const int section_blocks = args.query_tiles * args.heads_per_section;
  const int section = index / section_blocks;
  const int within = index - section * section_blocks;
  const int batch_head = section * args.heads_per_section + within % args.heads_per_section;
  const int batch = batch_head / args.heads;
  const int head = batch_head - batch * args.heads;
  return {args.query_tiles - 1 - within / args.heads_per_section, head, head / (args.heads / args.kv_heads), batch};
}

template <int kHeadDim, bool kBias>
__device__ __forceinline__ void produce(const ForwardArgs& args, ForwardShared<kHeadDim>& shared) {
  using Tile = ForwardTile<kHeadDim>;
  constexpr uint32_t kTileBytes = Tile::kBlockN * kHeadDim * sizeof(__nv_bfloat16);
  int loaded = 0;  // key tiles of the works before
  int index = blockIdx.x;
#pragma unroll 1
  for (int number = 0;; ++number) {
    const int buffer = number % Tile::kBuffers;
    const uint32_t free_parity = (number / Tile::kBuffers + 1) & 1;
    if (index >= args.works) {
      sm90::barrier_wait(&shared.query_empty[buffer], free_parity);
      shared.work[buffer] = args.works;
      sm90::barrier_arrive(&shared.query_full[buffer]);
      return;
    }
    const BlockWork work = block_work(args, index);
    const int first = work.tile * Tile::kBlockM;
    const int64_t bounds_offset = (static_cast<int64_t>(work.batch) * args.kv_heads + work.kv_head) * args.length;
    const RowBounds first_row = load_bounds(args.bounds, bounds_offset, first);
    const RowBounds last_row = load_bounds(args.bounds, bounds_offset, min(first + Tile::kBlockM, args.length) - 1);
    sm90::barrier_wait(&shared.query_empty[buffer], free_parity);
    shared.work[buffer] = index;
    shared.first_row[buffer] = first_row;
    shared.last_row[buffer] = last_row;
    sm90::barrier_arrive_expect_bytes(&shared.query_full[buffer], Tile::kBlockM * kHeadDim * sizeof(__nv_bfloat16));
    for (int block = 0; block < Tile::kColumnBlocks; ++block) {
      for (int half = 0; half < 2; ++half) {
        sm90::tensor_load(&shared.query[buffer][block][half * 64][0], &args.query, &shared.query_full[buffer],
                          block * 64, first + half * 64, work.head, work.batch);
      }
    }
    const KeyTiles<Tile::kBlockN> tiles(first_row, last_row);
    const int count = tiles.count();
#pragma unroll 1
    for (int i = 0; i < count; ++i, ++loaded) {
      const int stage = loaded % Tile::kStages;
      const uint32_t empty_parity = (loaded / Tile::kStages + 1) & 1;
      const KeyTile tile = tiles[i];
      sm90::barrier_wait(&shared.key_empty[stage], empty_parity);
      sm90::barrier_arrive_expect_bytes(&shared.key_full[stage],
                                        kTileBytes + (kBias && tile.compact ? Tile::kBlockN * sizeof(float) : 0));
      for (int block = 0; block < Tile::kColumnBlocks; ++block) {
        sm90::tensor_load(&shared.key[stage][block][0][0], tile.compact ? &args.compact_key : &args.second_key,
                          &shared.key_full[stage], block * 64, tile.start, work.kv_head, work.batch);
      }
      if (kBias && tile.compact) {
        sm90::tensor_load(&shared.bias[stage][0], &args.bias, &shared.key_full[stage], tile.start, work.kv_head,
                          work.batch, 0);
      }
      sm90::barrier_wait(&shared.value_empty[stage], empty_parity);
      sm90::barrier_arrive_expect_bytes(&shared.value_full[stage], kTileBytes);
      for (int block = 0; block < Tile::kColumnBlocks; ++block) {
        sm90::tensor_load(&shared.value[stage][block][0][0], tile.compact ? &args.compact_value : &args.second_value,
                          &shared.value_full[stage], block * 64, tile.start, work.kv_head, work.batch);
      }
    }
    index = gridDim.x + atomicAdd(args.counter, 1);
  }
}

/// Running softmax of the two rows a thread holds. Scores are kept unscaled; exponents are base 2.
struct RowState {
  float maximum[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};  // of this thread's columns only; reduced over the four threads of a row at the end
};

/// The bias of the columns a thread holds. Most of it is loaded while the scores are computed: the loads take long
/// beside the products, which read shared memory too. There are no registers for the rest.
struct ColumnBias {
  static constexpr int kEarly = 12;
  float2 pairs[16];

  template <int kFirst, int kEnd>
  __device__ __forceinline__ void load(const float* bias) {
#pragma unroll
    for (int i = kFirst; i < kEnd; ++i) {
      pairs[i] = *reinterpret_cast<const float2*>(bias + 8 * i + 2 * (threadIdx.x % 4));
    }
  }
  __device__ __forceinline__ void load_early(const float* bias) { load<0, kEarly>(bias); }
  __device__ __forceinline__ void load_rest(const float* bias) { load<kEarly, 16>(bias); }
};

template <bool kBias>
__device__ __forceinline__ void adjust_scores(float (&scores)[64], const KeyTile& tile, const RowBounds (&rows)[2],
                                              ColumnBias& column_bias, const float* bias, float inverse_scale_log2) {
  const int column = 2 * (threadIdx.x % 4);
  if (kBias && tile.compact) {
    column_bias.load_rest(bias);
    // Scores are multiplied by the scale inside the exponential, so the bias is divided by it here.
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      scores[4 * i] += column_bias.pairs[i].x * inverse_scale_log2;
      scores[4 * i + 1] += column_bias.pairs[i].y * inverse_scale_log2;
      scores[4 * i + 2] += column_bias.pairs[i].x * inverse_scale_log2;
      scores[4 * i + 3] += column_bias.pairs[i].y * inverse_scale_log2;
    }
  }
  if (tile.full) return;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int begin = (tile.compact ? rows[r].first_begin : rows[r].second_begin) - tile.start - column;
    const int end = (tile.compact ? rows[r].first_end : rows[r].second_end) - tile.start - column;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      if (8 * i < begin || 8 * i >= end) scores[4 * i + 2 * r] = -INFINITY;
      if (8 * i + 1 < begin || 8 * i + 1 >= end) scores[4 * i + 2 * r + 1] = -INFINITY;
    }
  }
}

/// Turns scores into probabilities relative to the new maxima; returns in `correction` what older sums are multiplied
/// by.
__device__ __forceinline__ void softmax_tile(float (&scores)[64], RowState& state, float (&correction)[2],
                                             float scale_log2) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float maximum = state.maximum[r];
#pragma unroll
    for (int i = 0; i < 16; ++i) maximum = fmaxf(maximum, fmaxf(scores[4 * i + 2 * r], scores[4 * i + 2 * r + 1]));
    maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffff, maximum, 1));
    maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffff, maximum, 2));
    // A row that has seen nothing yet keeps -infinity; subtracting zero instead leaves its probabilities zero.
    const float offset = maximum == -INFINITY ? 0.0f : maximum * scale_log2;
    correction[r] = sm90::exp2_approximate(state.maximum[r] * scale_log2 - offset);
    state.maximum[r] = maximum;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      scores[4 * i + 2 * r] = sm90::exp2_approximate(fmaf(scores[4 * i + 2 * r], scale_log2, -offset));
      scores[4 * i + 2 * r + 1] = sm90::exp2_approximate(fmaf(scores[4 * i + 2 * r + 1], scale_log2, -offset));
      sum += scores[4 * i + 2 * r] + scores[4 * i + 2 * r + 1];
    }
    state.sum[r] = state.sum[r] * correction[r] + sum;
  }
}

/// One query tile by a consumer warpgroup; `done` key tiles were consumed before. Returns how many it consumed itself.
template <int kHeadDim, bool kBias>
__device__ __forceinline__ int consume(const ForwardArgs& args, ForwardShared<kHeadDim>& shared, const BlockWork& work,
                                       int buffer, int done, int consumer) {
  using Tile = ForwardTile<kHeadDim>;
  constexpr int kOutputs = kHeadDim / 2;
  constexpr uint32_t kBlockBytes = Tile::kBlockN * 128;
  const int thread = threadIdx.x % 128;
  const int local_row = consumer * 64 + thread / 32 * 16 + thread % 32 / 4;
  const int64_t bounds_offset = (static_cast<int64_t>(work.batch) * args.kv_heads + work.kv_head) * args.length;
  RowBounds rows[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    rows[r] =
        load_bounds(args.bounds, bounds_offset, min(work.tile * Tile::kBlockM + local_row + 8 * r, args.length - 1));
  }

  float scores[64], output[kOutputs], correction[2];
  uint32_t probabilities[32];
  RowState state;
  const float inverse_scale_log2 = kBias ? 1.4426950408889634f / args.scale_log2 : 0.0f;

  const auto issue_scores = [&](int stage) {
    const uint64_t query = sm90::descriptor_k_major(&shared.query[buffer][0][consumer * 64][0]);
    const uint64_t key = sm90::descriptor_k_major(&shared.key[stage][0][0][0]);
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
      const uint32_t query_offset = k / 4 * (Tile::kBlockM * 128) + k % 4 * 32;
      const uint32_t key_offset = k / 4 * kBlockBytes + k % 4 * 32;
      sm90::wgmma_ss<0, 0>(scores, sm90::descriptor_advance(query, query_offset),
                           sm90::descriptor_advance(key, key_offset), k != 0);
    }
    sm90::wgmma_commit();
  };
  const auto issue_output = [&](int stage, bool accumulate) {
    const uint64_t value = sm90::descriptor_mn_major(&shared.value[stage][0][0][0], kBlockBytes);
#pragma unroll
    for (int k = 0; k < Tile::kBlockN / 16; ++k) {
      sm90::wgmma_rs<1>(output, probabilities[4 * k], probabilities[4 * k + 1], probabilities[4 * k + 2],
                        probabilities[4 * k + 3], sm90::descriptor_advance(value, k * 2048), accumulate || k != 0);
    }
    sm90::wgmma_commit();
  };
  const auto pack_probabilities = [&] {
#pragma unroll
    for (int i = 0; i < 32; ++i) probabilities[i] = pack_pair(scores[2 * i], scores[2 * i + 1]);
  };

  const auto stage_of = [&](int tile) { return (done + tile) % Tile::kStages; };
  const auto parity_of = [&](int tile) { return (done + tile) / Tile::kStages & 1; };
  const KeyTiles<Tile::kBlockN> tiles(shared.first_row[buffer], shared.last_row[buffer]);
  const int count = tiles.count();
  const int first_stage = stage_of(0);
  sm90::barrier_wait(&shared.key_full[first_stage], parity_of(0));
  sm90::wgmma_fence();
  issue_scores(first_stage);
  ColumnBias column_bias;
  if (kBias && tiles[0].compact) column_bias.load_early(shared.bias[first_stage]);
  sm90::wgmma_wait<0>();
  sm90::fence_registers(scores);
  adjust_scores<kBias>(scores, tiles[0], rows, column_bias, shared.bias[first_stage], inverse_scale_log2);
  sm90::barrier_arrive_together<128 / kKeyReaders<kBias>>(&shared.key_empty[first_stage], thread);
  softmax_tile(scores, state, correction, args.scale_log2);
  pack_probabilities();
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) output[i] = 0;

  for (int i = 1; i < count; ++i) {
    const int stage = stage_of(i), previous = stage_of(i - 1);
    sm90::barrier_wait(&shared.key_full[stage], parity_of(i));
    sm90::named_barrier_sync(1 + consumer, 256);
    sm90::fence_registers(scores);
    sm90::fence_registers(output);
    sm90::fence_registers(probabilities);
    sm90::wgmma_fence();
    issue_scores(stage);
    sm90::barrier_wait(&shared.value_full[previous], parity_of(i - 1));
    issue_output(previous, true);
    sm90::named_barrier_arrive(2 - consumer, 256);
    const KeyTile tile = tiles[i];
    if (kBias && tile.compact) column_bias.load_early(shared.bias[stage]);
    sm90::wgmma_wait<1>();
    sm90::fence_registers(scores);
    if (!tile.full || (kBias && tile.compact)) {
      adjust_scores<kBias>(scores, tile, rows, column_bias, shared.bias[stage], inverse_scale_log2);
    }
    sm90::barrier_arrive_together<128 / kKeyReaders<kBias>>(&shared.key_empty[stage], thread);
    softmax_tile(scores, state, correction, args.scale_log2);
    sm90::wgmma_wait<0>();
    sm90::fence_registers(output);
    sm90::fence_registers(probabilities);
    sm90::barrier_arrive_together<128>(&shared.value_empty[previous], thread);
    pack_probabilities();
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) output[j] *= correction[j / 2 % 2];
  }
  const int last = stage_of(count - 1);
  sm90::barrier_wait(&shared.value_full[last], parity_of(count - 1));
  sm90::fence_registers(output);
  sm90::fence_registers(probabilities);
  sm90::wgmma_fence();
  issue_output(last, true);
  sm90::wgmma_wait<0>();
  sm90::fence_registers(output);
  sm90::barrier_arrive_together<128>(&shared.value_empty[last], thread);

  const int64_t lse_offset = (static_cast<int64_t>(work.batch) * args.heads + work.head) * args.length;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = state.sum[r];
    sum += __shfl_xor_sync(0xffffffff, sum, 1);
    sum += __shfl_xor_sync(0xffffffff, sum, 2);
    const int row = work.tile * Tile::kBlockM + local_row + 8 * r;
    if (thread % 4 == 0 && row < args.length) {
      args.log_sum_exp[lse_offset + row] = (state.maximum[r] * args.scale_log2 + log2f(sum)) * 0.6931471805599453f;
    }
    correction[r] = 1.0f / sum;
  }
  // The warpgroup's own query rows are free now; the output takes their place in the same swizzled form.
  __nv_bfloat16* staging = &shared.query[buffer][0][consumer * 64][0];
  const int staged_row = thread / 32 * 16 + thread % 32 / 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = staged_row + 8 * r;
#pragma unroll
    for (int i = 0; i < kHeadDim / 8; ++i) {
      const int chunk = i % 8 ^ row % 8;
      __nv_bfloat16* target = staging + i / 8 * (Tile::kBlockM * 64) + row * 64 + chunk * 8 + 2 * (thread % 4);
      *reinterpret_cast<uint32_t*>(target) =
          pack_pair(output[4 * i + 2 * r] * correction[r], output[4 * i + 2 * r + 1] * correction[r]);
    }
  }
  sm90::fence_async_proxy();
  sm90::named_barrier_sync(3 + consumer, 128);
  if (thread == 0) {
    for (int block = 0; block < Tile::kColumnBlocks; ++block) {
      sm90::tensor_store(&args.output, &shared.query[buffer][block][consumer * 64][0], block * 64,
                         work.tile * Tile::kBlockM + consumer * 64, work.head, work.batch);
    }
    sm90::tensor_store_commit();
    sm90::tensor_store_wait_read<0>();
  }
  sm90::barrier_arrive_together<128>(&shared.query_empty[buffer], thread);
  __syncwarp();
  return count;
}

template <int kHeadDim, bool kBias>
__global__ void __launch_bounds__(ForwardTile<kHeadDim>::kThreads, 1)
    forward_kernel(const __grid_constant__ ForwardArgs args) {
  using Tile = ForwardTile<kHeadDim>;
  auto& shared = sm90::dynamic_shared<ForwardShared<kHeadDim>>();
  if (threadIdx.x == 0) {
    for (int buffer = 0; buffer < Tile::kBuffers; ++buffer) {
      sm90::barrier_init(&shared.query_full[buffer], 1);
      sm90::barrier_init(&shared.query_empty[buffer], Tile::kConsumers * sm90::kGroupArrivals<128>);
    }
    for (int stage = 0; stage < Tile::kStages; ++stage) {
      sm90::barrier_init(&shared.key_full[stage], 1);
      sm90::barrier_init(&shared.value_full[stage], 1);
      constexpr int kReaders = kKeyReaders<kBias>;
      sm90::barrier_init(&shared.key_empty[stage], Tile::kConsumers * kReaders * sm90::kGroupArrivals<128 / kReaders>);
      sm90::barrier_init(&shared.value_empty[stage], Tile::kConsumers * sm90::kGroupArrivals<128>);
    }
    sm90::barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    sm90::register_dealloc<40>();
    if (threadIdx.x == 0) produce<kHeadDim, kBias>(args, shared);
  } else {
    sm90::register_alloc<232>();
    const int consumer = __shfl_sync(0xffffffff, threadIdx.x / 128 - 1, 0);
    // The turns go on from one query tile to the next: both warpgroups take equally many.
    if (consumer == 1) sm90::named_barrier_arrive(1, 256);
    int done = 0;
#pragma unroll 1
    for (int number = 0;; ++number) {
      const int buffer = number % Tile::kBuffers;
      sm90::barrier_wait(&shared.query_full[buffer], number / Tile::kBuffers & 1);
      const int index = shared.work[buffer];
      if (index >= args.works) break;
      done += consume<kHeadDim, kBias>(args, shared, block_work(args, index), buffer, done, consumer);
    }
  }
}

}  // namespace dga::kernels

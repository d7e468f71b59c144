#pragma once

#include <cuda_bf16.h>

#include "kernels/attention/ranges.cuh"
#include "kernels/common/hopper.cuh"

// The backward kernel's tiles, shared memory and arguments, and its copying threads: one that streams queries and
// output gradients in, two that add dQ to its accumulator. What is computed with them stands in bwd_sm90.cuh.
namespace dga::kernels {

template <int kHeadDim, int kConsumerCount>
struct BackwardTile {
  static constexpr int kConsumers = kConsumerCount;
  static constexpr int kBlockM = 64;               // queries a step: leaves room for dK and dV in registers
  static constexpr int kBlockN = 64 * kConsumers;  // keys a block
  static constexpr int kBlocksPerSm = 3 - kConsumers;
  static constexpr int kStages = kConsumers;   // of what is streamed: 224 KiB in all, or 104 KiB
  static constexpr int kBuffers = kConsumers;  // of dS and of dQ on its way out
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static constexpr int kConsumerRegisters = kConsumers == 2 ? 240 : 232;  // with 24 for the others: what there is
  static constexpr int kColumnBlocks = kHeadDim / 64;
  static constexpr int kParts = 2;  // of the columns of dQ
  static constexpr int kQueryColumns = kHeadDim / kParts;
};

template <int kHeadDim, int kConsumerCount>
struct BackwardShared {
  using Tile = BackwardTile<kHeadDim, kConsumerCount>;
  alignas(1024) __nv_bfloat16 key[Tile::kColumnBlocks][Tile::kBlockN][64];    // reused for dK
  alignas(1024) __nv_bfloat16 value[Tile::kColumnBlocks][Tile::kBlockN][64];  // reused for dV
  alignas(1024) __nv_bfloat16 query[Tile::kStages][Tile::kColumnBlocks][Tile::kBlockM][64];
  alignas(1024) __nv_bfloat16 grad_output[Tile::kStages][Tile::kColumnBlocks][Tile::kBlockM][64];
  alignas(1024) __nv_bfloat16 grad_scores[Tile::kBuffers][Tile::kBlockN][Tile::kBlockM];  // dS^T, rows of 128 bytes
  alignas(128) float grad_query[Tile::kBuffers][Tile::kParts][Tile::kQueryColumns * Tile::kBlockM];  // on its way to L2
  alignas(128) float log_sum_exp[Tile::kStages][Tile::kBlockM];
  alignas(128) float delta[Tile::kStages][Tile::kBlockM];
  float bias[Tile::kBlockN];    // in base 2
  int2 visible[Tile::kBlockN];  // the queries [x, y) that see the key
  int first_query[Tile::kStages];
  int whole[Tile::kStages];  // whether every query of the stage sees all keys of the block
  uint64_t key_value_full;
  uint64_t query_full[Tile::kStages], query_empty[Tile::kStages];
  uint64_t grad_output_full[Tile::kStages], grad_output_empty[Tile::kStages];
  uint64_t grad_query_full[Tile::kBuffers][Tile::kParts], grad_query_empty[Tile::kBuffers][Tile::kParts];
};

struct BackwardArgs {
  CUtensorMap query, grad_output, compact_key, compact_value, second_key, second_value;
  CUtensorMap grad_compact_key, grad_compact_value, grad_second_key, grad_second_value;
  Bounds bounds;
  const float* bias;  // or null
  float* grad_bias;   // or null
  int64_t bias_stride;
  const int2* visible;            // [B, G, compact length + second length]: the queries [x, y) that see the key
  const float* log_sum_exp_log2;  // [B, H, padded length]
  const float* delta;             // [B, H, padded length]
  float* grad_query;              // [B, H, query tiles, 64 * D] in accumulator order
  int* semaphores;                // [B, H, query tiles, 2] zeros; deterministic mode only
  const int* turns;  // [B, G, query tiles, 2]: key tile j of the compact list is [0] + j-th to add to the tile, of
                     // the second list [1] + j-th; deterministic mode only
  int batch, length, heads, kv_heads, compact_length, second_length;
  int group;  // query heads that share a KV head
  int query_tiles, compact_tiles, second_tiles;
  bool compact;  // of which list the launch takes the tiles
  float scale, scale_log2;
};

struct BackwardWork {
  int tile, kv_head, batch;
};

/// Grid [heads of a section, tiles, sections]: the longest tiles of the compact list, the first ones, start first.
__device__ __forceinline__ BackwardWork backward_work(const BackwardArgs& args) {
  const int batch_head = blockIdx.z * gridDim.x + blockIdx.x;
  const int batch = batch_head / args.kv_heads;
  return {static_cast<int>(blockIdx.y), batch_head - batch * args.kv_heads, batch};
}

/// The queries that see key `key` of the list: none, x = y = length, behind its end.
__device__ __forceinline__ int2 visible_queries(const BackwardArgs& args, const BackwardWork& work, int key) {
  if (key >= (args.compact ? args.compact_length : args.second_length)) return make_int2(args.length, args.length);
  const int64_t row = static_cast<int64_t>(work.batch) * args.kv_heads + work.kv_head;
  return args
      .visible[row * (args.compact_length + args.second_length) + (args.compact ? 0 : args.compact_length) + key];
}

struct QueryTiles {
  int first, end, whole_first, whole_end;  // those that see a key of the block, those of which all see all its keys
};

/// Both are intervals because the bounds never decrease. A tile in which no query sees a key may be counted where the
/// deterministic order counts it too (turns_kernel).
template <int kBlockN>
__device__ __forceinline__ QueryTiles query_tiles(const int2 (&visible)[kBlockN], const BackwardArgs& args) {
  constexpr int kBlockM = 64;
  const int first = visible[0].x, last = visible[kBlockN - 1].y;
  const int whole_first = visible[kBlockN - 1].x, whole_last = visible[0].y;
  if (first == args.length) return {};
  return {first / kBlockM, max(first / kBlockM, (last + kBlockM - 1) / kBlockM), (whole_first + kBlockM - 1) / kBlockM,
          whole_last == args.length ? args.query_tiles : whole_last / kBlockM};
}

/// Calls visit(step, head, tile, place), place being the tile's among those of all heads: query tiles from the last to
/// the first, of all query heads of the group, in the order in which the blocks of a KV head read the same tile soonest
/// after each other. Those of the compact list start together at the last queries but see different numbers of tiles:
/// all heads of a tile, then the next tile. Those of the second list see equally many tiles, each block's a little
/// later ones than the block's before: head by head. Kept small, because the copying threads have 24 registers.
template <class Visit>
__device__ __forceinline__ void for_each_step(const BackwardArgs& args, const BackwardWork& work,
                                              const QueryTiles& tiles, const Visit& visit) {
  const int steps = args.group * (tiles.end - tiles.first);
  const int first_head = work.kv_head * args.group;
  int head = first_head, tile = tiles.end - 1;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    visit(step, head, tile, (work.batch * args.heads + head) * args.query_tiles + tile);
    if (args.compact) {
      if (++head == first_head + args.group) head = first_head, --tile;
    } else {
      if (--tile < tiles.first) tile = tiles.end - 1, ++head;
    }
  }
}

template <int kHeadDim, int kConsumers>
__device__ __forceinline__ void produce_backward(const BackwardArgs& args, BackwardShared<kHeadDim, kConsumers>& shared,
                                                 const BackwardWork& work, const QueryTiles& tiles) {
  using Tile = BackwardTile<kHeadDim, kConsumers>;
  constexpr uint32_t kQueryBytes = Tile::kBlockM * kHeadDim * sizeof(__nv_bfloat16);
  sm90::barrier_arrive_expect_bytes(&shared.key_value_full, 2 * Tile::kBlockN * kHeadDim * sizeof(__nv_bfloat16));
  for (int block = 0; block < Tile::kColumnBlocks; ++block) {
    for (int part = 0; part < kConsumers; ++part) {
      const int row = work.tile * Tile::kBlockN + part * 64;
      sm90::tensor_load(&shared.key[block][part * 64][0], args.compact ? &args.compact_key : &args.second_key,
                        &shared.key_value_full, block * 64, row, work.kv_head, work.batch);
      sm90::tensor_load(&shared.value[block][part * 64][0], args.compact ? &args.compact_value : &args.second_value,
                        &shared.key_value_full, block * 64, row, work.kv_head, work.batch);
    }
  }
  for_each_step(args, work, tiles, [&](int step, int head, int tile, int place) {
    const int row = tile * Tile::kBlockM;
    const int64_t row_offset = static_cast<int64_t>(place) * Tile::kBlockM;
    const int stage = step % Tile::kStages;
    const uint32_t empty_parity = (step / Tile::kStages + 1) & 1;
    sm90::barrier_wait(&shared.query_empty[stage], empty_parity);
    shared.first_query[stage] = row;
    shared.whole[stage] = tile >= tiles.whole_first && tile < tiles.whole_end;
    sm90::barrier_arrive_expect_bytes(&shared.query_full[stage], kQueryBytes + Tile::kBlockM * sizeof(float));
    for (int block = 0; block < Tile::kColumnBlocks; ++block) {
      sm90::tensor_load(&shared.query[stage][block][0][0], &args.query, &shared.query_full[stage], block * 64, row,
                        head, work.batch);
    }
    sm90::bulk_load(shared.log_sum_exp[stage], args.log_sum_exp_log2 + row_offset, Tile::kBlockM * sizeof(float),
                    &shared.query_full[stage]);
    sm90::barrier_wait(&shared.grad_output_empty[stage], empty_parity);
    sm90::barrier_arrive_expect_bytes(&shared.grad_output_full[stage], kQueryBytes + Tile::kBlockM * sizeof(float));
    for (int block = 0; block < Tile::kColumnBlocks; ++block) {
      sm90::tensor_load(&shared.grad_output[stage][block][0][0], &args.grad_output, &shared.grad_output_full[stage],
                        block * 64, row, head, work.batch);
    }
    sm90::bulk_load(shared.delta[stage], args.delta + row_offset, Tile::kBlockM * sizeof(float),
                    &shared.grad_output_full[stage]);
  });
}

__device__ __forceinline__ void wait_for_turn(int* semaphore, int turn) {
  int value;
  do {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(semaphore) : "memory");
  } while (value != turn);
}
__device__ __forceinline__ void pass_turn(int* semaphore) {
  asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(semaphore) : "memory");
}

/// Adds one part of every staged dQ to the accumulator. One thread; kept apart from the consumers, which would
/// otherwise wait for the copy, and in the deterministic mode for their turn.
template <int kHeadDim, int kConsumers, bool kDeterministic>
__device__ __forceinline__ void add_grad_query(const BackwardArgs& args, BackwardShared<kHeadDim, kConsumers>& shared,
                                               const BackwardWork& work, const QueryTiles& tiles, int part) {
  using Tile = BackwardTile<kHeadDim, kConsumers>;
  constexpr int kElements = Tile::kQueryColumns * Tile::kBlockM;
  constexpr int kBuffers = Tile::kBuffers;
  for_each_step(args, work, tiles, [&](int step, int, int tile, int tile_place) {
    const int buffer = step % kBuffers;
    const int64_t place = static_cast<int64_t>(tile_place) * Tile::kParts + part;
    sm90::barrier_wait(&shared.grad_query_full[buffer][part], step / kBuffers & 1);
    if (kDeterministic) {
      const int at = (work.batch * args.kv_heads + work.kv_head) * args.query_tiles + tile;
      wait_for_turn(args.semaphores + place, args.turns[2 * at + (args.compact ? 0 : 1)] + work.tile);
    }
    sm90::bulk_add(args.grad_query + place * kElements, shared.grad_query[buffer][part], kElements * sizeof(float));
    sm90::tensor_store_commit();
    if (kDeterministic) {
      sm90::tensor_store_wait();
      pass_turn(args.semaphores + place);
      sm90::barrier_arrive(&shared.grad_query_empty[buffer][part]);
    } else {  // the one buffer, or the one before, is free again
      sm90::tensor_store_wait_read<kBuffers - 1>();
      if (step >= kBuffers - 1) sm90::barrier_arrive(&shared.grad_query_empty[(step + 1) % kBuffers][part]);
    }
  });
  sm90::tensor_store_wait_read<0>();
}

}  // namespace dga::kernels

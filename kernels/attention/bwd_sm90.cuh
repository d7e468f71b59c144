#pragma once

#include <cuda_bf16.h>

#include "kernels/attention/bwd_copy_sm90.cuh"
#include "kernels/common/bf16.cuh"
#include "kernels/common/hopper.cuh"
#include "kernels/common/wgmma.cuh"

// Backward kernel for Hopper. A block owns 64 keys a consumer warpgroup of one KV head and walks over the query tiles
// that see them (of all query heads that share the KV head): one thread streams queries and output gradients in, two
// others stream dQ out, each consumer holds dK and dV of its keys in registers. All products are taken transposed, keys
// down the rows, so that P^T and dS^T leave the softmax as register operands of dV += P^T dO and dK += dS^T Q. Only dS
// goes through shared memory, for dQ = dS K, which is computed in two parts of half the head dim and added to an fp32
// accumulator.
//
// Two consumers share the loads and the sums of dQ and fill a multiprocessor. Where few queries see a key, a block is
// over before its latencies are hidden; there one consumer a block leaves room for a second block beside it.
namespace dga::kernels {

/// Rows of a [64, D] register tile to the swizzled shared tile, as bf16 times `factor`.
template <int kHeadDim>
__device__ __forceinline__ void stage_rows(const float (&tile)[kHeadDim / 2], float factor, __nv_bfloat16* staging,
                                           int block_elements, int thread) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = thread / 32 * 16 + thread % 32 / 4 + 8 * r;
#pragma unroll
    for (int i = 0; i < kHeadDim / 8; ++i) {
      const int chunk = i % 8 ^ row % 8;
      *reinterpret_cast<uint32_t*>(staging + i / 8 * block_elements + row * 64 + chunk * 8 + 2 * (thread % 4)) =
          pack_pair(tile[4 * i + 2 * r] * factor, tile[4 * i + 2 * r + 1] * factor);
    }
  }
}

/// A consumer warpgroup: dK and dV of its 64 keys, and what it holds of a step. The products are asynchronous; each
/// issue_*() commits a group of its own, and who calls it waits for the group before the next use of its registers.
template <int kHeadDim, int kConsumers, bool kBias>
struct BackwardConsumer {
  using Tile = BackwardTile<kHeadDim, kConsumers>;
  static constexpr int kBuffers = Tile::kBuffers;
  static constexpr uint32_t kKeyBlockBytes = Tile::kBlockN * 128;
  static constexpr uint32_t kQueryBlockBytes = Tile::kBlockM * 128;
  static constexpr int kGradQueryRegisters = Tile::kQueryColumns / 2;

  const BackwardArgs& args;
  BackwardShared<kHeadDim, kConsumers>& shared;
  const BackwardWork& work;
  const int consumer, thread;
  const int local_key;  // of the first of the thread's two rows, 8 apart

  float grad_key[kHeadDim / 2], grad_value[kHeadDim / 2];
  float grad_bias = 0;         // of key thread / 2, half of it
  float scores[32], grad[32];  // S^T, then P^T; dP^T
  uint32_t fragments[16], grad_fragments[16];
  float grad_query[kGradQueryRegisters];

  __device__ __forceinline__ BackwardConsumer(const BackwardArgs& args_, BackwardShared<kHeadDim, kConsumers>& shared_,
                                              const BackwardWork& work_)
      : args(args_),
        shared(shared_),
        work(work_),
        consumer(__shfl_sync(0xffffffff, threadIdx.x / 128 - 1, 0)),
        thread(threadIdx.x % 128),
        local_key(consumer * 64 + thread / 32 * 16 + thread % 32 / 4) {
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) grad_key[i] = grad_value[i] = 0;
  }

  static __device__ __forceinline__ int stage_of(int step) { return step % Tile::kStages; }
  static __device__ __forceinline__ uint32_t parity_of(int step) { return step / Tile::kStages & 1; }

  __device__ __forceinline__ void wait_for_query(int step) {
    sm90::barrier_wait(&shared.query_full[stage_of(step)], parity_of(step));
  }
  __device__ __forceinline__ void wait_for_grad_output(int step) {
    sm90::barrier_wait(&shared.grad_output_full[stage_of(step)], parity_of(step));
  }
  /// The warpgroup needs the stage no longer: all its warps have passed a barrier since they read it themselves.
  __device__ __forceinline__ void release_query(int step) {
    sm90::barrier_arrive_together<128>(&shared.query_empty[stage_of(step)], thread);
  }
  __device__ __forceinline__ void release_grad_output(int step) {
    sm90::barrier_arrive_together<128>(&shared.grad_output_empty[stage_of(step)], thread);
  }

  /// S^T = K Q^T
  __device__ __forceinline__ void issue_scores(int step) {
    const int stage = stage_of(step);
    const uint64_t key = sm90::descriptor_k_major(&shared.key[0][consumer * 64][0]);
    const uint64_t query = sm90::descriptor_k_major(&shared.query[stage][0][0][0]);
    sm90::fence_registers(scores);
    sm90::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
      sm90::wgmma_ss<0, 0>(scores, sm90::descriptor_advance(key, k / 4 * kKeyBlockBytes + k % 4 * 32),
                           sm90::descriptor_advance(query, k / 4 * kQueryBlockBytes + k % 4 * 32), k != 0);
    }
    sm90::wgmma_commit();
  }

  /// dP^T = V dO^T
  __device__ __forceinline__ void issue_grad_probabilities(int step) {
    const int stage = stage_of(step);
    const uint64_t value = sm90::descriptor_k_major(&shared.value[0][consumer * 64][0]);
    const uint64_t grad_output = sm90::descriptor_k_major(&shared.grad_output[stage][0][0][0]);
    sm90::fence_registers(grad);
    sm90::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
      sm90::wgmma_ss<0, 0>(grad, sm90::descriptor_advance(value, k / 4 * kKeyBlockBytes + k % 4 * 32),
                           sm90::descriptor_advance(grad_output, k / 4 * kQueryBlockBytes + k % 4 * 32), k != 0);
    }
    sm90::wgmma_commit();
  }

  /// Sets the scores of keys that a query does not see to -infinity.
  __device__ __forceinline__ void mask(int first_query) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int2 visible = shared.visible[local_key + 8 * r];
      const int first = visible.x - first_query - 2 * (thread % 4), end = visible.y - first_query - 2 * (thread % 4);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (8 * i < first || 8 * i >= end) scores[4 * i + 2 * r] = -INFINITY;
        if (8 * i + 1 < first || 8 * i + 1 >= end) scores[4 * i + 2 * r + 1] = -INFINITY;
      }
    }
  }

  /// P^T = exp2(scale_log2 * S^T + bias - lse), zero where the key is not visible.
  __device__ __forceinline__ void compute_probabilities(int step) {
    const int stage = stage_of(step);
    sm90::fence_registers(scores);
    if (!shared.whole[stage]) mask(shared.first_query[stage]);
    float bias[2] = {0, 0};
    if (kBias) bias[0] = shared.bias[local_key], bias[1] = shared.bias[local_key + 8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 lse = *reinterpret_cast<const float2*>(&shared.log_sum_exp[stage][8 * i + 2 * (thread % 4)]);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float& first = scores[4 * i + 2 * r];
        float& second = scores[4 * i + 2 * r + 1];
        first = sm90::exp2_approximate(fmaf(first, args.scale_log2, kBias ? bias[r] - lse.x : -lse.x));
        second = sm90::exp2_approximate(fmaf(second, args.scale_log2, kBias ? bias[r] - lse.y : -lse.y));
        fragments[2 * i + r] = pack_pair(first, second);
      }
    }
  }

  /// dV += P^T dO
  __device__ __forceinline__ void issue_grad_value(int step) {
    const uint64_t grad_output =
        sm90::descriptor_mn_major(&shared.grad_output[stage_of(step)][0][0][0], kQueryBlockBytes);
    sm90::fence_registers(grad_value);
    sm90::fence_registers(fragments);
    sm90::wgmma_fence();
#pragma unroll
    for (int k = 0; k < Tile::kBlockM / 16; ++k) {
      sm90::wgmma_rs<1>(grad_value, fragments[4 * k], fragments[4 * k + 1], fragments[4 * k + 2], fragments[4 * k + 3],
                        sm90::descriptor_advance(grad_output, k * 2048), 1);
    }
    sm90::wgmma_commit();
  }

  /// dS^T = P^T * (dP^T - delta)
  __device__ __forceinline__ void compute_grad_scores(int step) {
    const int stage = stage_of(step);
    sm90::fence_registers(grad);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 delta = *reinterpret_cast<const float2*>(&shared.delta[stage][8 * i + 2 * (thread % 4)]);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float first = scores[4 * i + 2 * r] * (grad[4 * i + 2 * r] - delta.x);
        const float second = scores[4 * i + 2 * r + 1] * (grad[4 * i + 2 * r + 1] - delta.y);
        grad_fragments[2 * i + r] = pack_pair(first, second);
      }
    }
  }

  /// Puts dS^T where both warpgroups read it for dQ, which they may after a barrier.
  __device__ __forceinline__ void share_grad_scores(int step) {
    const int lane = thread % 32;
    const int row = consumer * 64 + thread / 32 * 16 + lane % 16;
    const uint32_t place = sm90::shared_address(&shared.grad_scores[step % kBuffers][row][0]);
    const uint32_t chunk = (lane / 16 ^ lane % 8) * 16;  // of 16 bytes in the swizzled row
#pragma unroll
    for (int i = 0; i < 4; ++i) sm90::store_matrices(place + (chunk ^ i * 32), &grad_fragments[4 * i]);
    sm90::fence_async_proxy();
  }

  /// Adds the step's dS to the gradient of the bias: from shared memory, two threads a key, because there are no
  /// registers that could hold it until the sums are due.
  __device__ __forceinline__ void add_grad_bias(int step) {
    const int row = consumer * 64 + thread / 2;  // of this warp's own
    const auto* chunks = reinterpret_cast<const uint4*>(&shared.grad_scores[step % kBuffers][row][0]);
    const int first = thread % 2 * 4 ^ row % 8;  // in the swizzled row
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Floats8 part = unpack(chunks[first ^ i]);
#pragma unroll
      for (int j = 0; j < 8; ++j) grad_bias += part.v[j];
    }
  }

  /// dK += dS^T Q
  __device__ __forceinline__ void issue_grad_key(int step) {
    const uint64_t query = sm90::descriptor_mn_major(&shared.query[stage_of(step)][0][0][0], kQueryBlockBytes);
    sm90::fence_registers(grad_key);
    sm90::fence_registers(grad_fragments);
    sm90::wgmma_fence();
#pragma unroll
    for (int k = 0; k < Tile::kBlockM / 16; ++k) {
      sm90::wgmma_rs<1>(grad_key, grad_fragments[4 * k], grad_fragments[4 * k + 1], grad_fragments[4 * k + 2],
                        grad_fragments[4 * k + 3], sm90::descriptor_advance(query, k * 2048), 1);
    }
    sm90::wgmma_commit();
  }

  /// dQ = dS K, one part of the columns
  __device__ __forceinline__ void issue_grad_query(int step, int part) {
    constexpr uint32_t kPartBytes = kHeadDim == 128 ? kKeyBlockBytes : 64;  // from one part's columns to the next
    const uint64_t grad_scores =
        sm90::descriptor_mn_major(&shared.grad_scores[step % kBuffers][0][0], kQueryBlockBytes);
    const uint64_t key =
        sm90::descriptor_advance(sm90::descriptor_mn_major(&shared.key[0][0][0], kKeyBlockBytes), part * kPartBytes);
    sm90::fence_registers(grad_query);
    sm90::wgmma_fence();
#pragma unroll
    for (int k = 0; k < Tile::kBlockN / 16; ++k) {
      sm90::wgmma_ss<1, 1>(grad_query, sm90::descriptor_advance(grad_scores, k * 2048),
                           sm90::descriptor_advance(key, k * 2048), k != 0);
    }
    sm90::wgmma_commit();
  }

  /// Hands one part of dQ to the thread that adds it.
  __device__ __forceinline__ void stage_grad_query(int step, int part) {
    const int buffer = step % kBuffers;
    sm90::fence_registers(grad_query);
    sm90::barrier_wait(&shared.grad_query_empty[buffer][part], (step / kBuffers + 1) & 1);
    float* staging = shared.grad_query[buffer][part];
#pragma unroll
    for (int i = 0; i < kGradQueryRegisters / 4; ++i) {
      *reinterpret_cast<float4*>(staging + (i * 128 + thread) * 4) =
          make_float4(grad_query[4 * i], grad_query[4 * i + 1], grad_query[4 * i + 2], grad_query[4 * i + 3]);
    }
    sm90::fence_async_proxy();
    sm90::barrier_arrive(&shared.grad_query_full[buffer][part]);
  }

  /// Two warpgroups. The tensor cores always have a product waiting: the scores of the next step and dQ of this one are
  /// issued before the softmax of the next. Each warpgroup computes its half of dQ's columns from the keys of both.
  __device__ __forceinline__ void walk_together(int steps) {
    if (steps == 0) return;
    wait_for_query(0);
    issue_scores(0);
    sm90::wgmma_wait<0>();
    compute_probabilities(0);
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      sm90::wgmma_wait<0>();  // dQ of the step before
      if (step > 0) stage_grad_query(step - 1, consumer);
      wait_for_grad_output(step);
      issue_grad_probabilities(step);
      issue_grad_value(step);
      sm90::wgmma_wait<1>();
      compute_grad_scores(step);
      // Both warpgroups have read what this buffer of dS held: each waited for dQ of two steps ago before the barrier
      // of the step before.
      share_grad_scores(step);
      issue_grad_key(step);
      sm90::wgmma_wait<1>();
      sm90::fence_registers(grad_value);
      sm90::fence_registers(fragments);
      const bool more = step + 1 < steps;
      if (more) wait_for_query(step + 1);
      issue_scores(step + 1);  // after the last step of what the stage held before, for nobody
      sm90::wgmma_wait<1>();
      sm90::fence_registers(grad_key);
      sm90::fence_registers(grad_fragments);
      sm90::named_barrier_sync(1, 256);
      release_grad_output(step);
      release_query(step);
      issue_grad_query(step, consumer);
      if (kBias) add_grad_bias(step);
      sm90::wgmma_wait<1>();
      compute_probabilities(step + 1);
    }
    sm90::wgmma_wait<0>();
    stage_grad_query(steps - 1, consumer);
  }

  /// One warpgroup has not the registers for that; the block beside it fills the time.
  __device__ __forceinline__ void walk_alone(int steps) {
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      wait_for_query(step);
      issue_scores(step);
      sm90::wgmma_wait<0>();
      compute_probabilities(step);
      wait_for_grad_output(step);
      issue_grad_value(step);
      sm90::wgmma_wait<0>();
      sm90::fence_registers(grad_value);
      sm90::fence_registers(fragments);
      issue_grad_probabilities(step);
      sm90::wgmma_wait<0>();
      compute_grad_scores(step);
      sm90::named_barrier_sync(1, 128);  // all warps have waited for the products that read the dS before
      share_grad_scores(step);
      sm90::named_barrier_sync(1, 128);
      release_grad_output(step);
      issue_grad_query(step, 0);
      issue_grad_key(step);
      sm90::wgmma_wait<1>();
      stage_grad_query(step, 0);
      issue_grad_query(step, 1);
      sm90::wgmma_wait<0>();
      sm90::fence_registers(grad_key);
      sm90::fence_registers(grad_fragments);
      stage_grad_query(step, 1);
      release_query(step);
    }
  }

  /// dK, dV and the gradient of the bias.
  __device__ __forceinline__ void write_gradients() {
    if (kBias && args.compact) {
      const int key = work.tile * Tile::kBlockN + consumer * 64 + thread / 2;
      const float sum = grad_bias + __shfl_xor_sync(0xffffffff, grad_bias, 1);
      if (thread % 2 == 0 && key < args.compact_length) {
        const int64_t head = static_cast<int64_t>(work.batch) * args.kv_heads + work.kv_head;
        args.grad_bias[head * args.bias_stride + key] = sum;
      }
    }
    // Keys and values are free once all consumers are done; the gradients take their place.
    sm90::named_barrier_sync(1, 128 * kConsumers);
    stage_rows<kHeadDim>(grad_key, args.scale, &shared.key[0][consumer * 64][0], Tile::kBlockN * 64, thread);
    stage_rows<kHeadDim>(grad_value, 1.0f, &shared.value[0][consumer * 64][0], Tile::kBlockN * 64, thread);
    sm90::fence_async_proxy();
    sm90::named_barrier_sync(2 + consumer, 128);
    if (thread == 0) {
      const int row = work.tile * Tile::kBlockN + consumer * 64;
      for (int block = 0; block < Tile::kColumnBlocks; ++block) {
        sm90::tensor_store(args.compact ? &args.grad_compact_key : &args.grad_second_key,
                           &shared.key[block][consumer * 64][0], block * 64, row, work.kv_head, work.batch);
        sm90::tensor_store(args.compact ? &args.grad_compact_value : &args.grad_second_value,
                           &shared.value[block][consumer * 64][0], block * 64, row, work.kv_head, work.batch);
      }
      sm90::tensor_store_commit();
      sm90::tensor_store_wait_read<0>();
    }
  }
};

template <int kHeadDim, int kConsumers, bool kBias, bool kDeterministic>
__global__ void __launch_bounds__(BackwardTile<kHeadDim, kConsumers>::kThreads,
                                  BackwardTile<kHeadDim, kConsumers>::kBlocksPerSm)
    backward_kernel(const __grid_constant__ BackwardArgs args) {
  using Tile = BackwardTile<kHeadDim, kConsumers>;
  auto& shared = sm90::dynamic_shared<BackwardShared<kHeadDim, kConsumers>>();
  sm90::launch_dependents();  // the blocks of a second launch may fill what the last of this one leave idle
  const BackwardWork work = backward_work(args);
  if (work.batch >= args.batch) return;  // the last section may have fewer heads
  if (threadIdx.x == 0) {
    sm90::barrier_init(&shared.key_value_full, 1);
    for (int stage = 0; stage < Tile::kStages; ++stage) {
      sm90::barrier_init(&shared.query_full[stage], 1);
      sm90::barrier_init(&shared.query_empty[stage], Tile::kConsumers * sm90::kGroupArrivals<128>);
      sm90::barrier_init(&shared.grad_output_full[stage], 1);
      sm90::barrier_init(&shared.grad_output_empty[stage], Tile::kConsumers * sm90::kGroupArrivals<128>);
    }
    for (int i = 0; i < Tile::kBuffers * Tile::kParts; ++i) {
      sm90::barrier_init(&shared.grad_query_full[i / Tile::kParts][i % Tile::kParts], 128);
      sm90::barrier_init(&shared.grad_query_empty[i / Tile::kParts][i % Tile::kParts], 1);
    }
    sm90::barrier_init_fence();
  }
  if (threadIdx.x < Tile::kBlockN) {
    const int key = work.tile * Tile::kBlockN + threadIdx.x;
    shared.visible[threadIdx.x] = visible_queries(args, work, key);
    if (kBias) {
      const int64_t row = (static_cast<int64_t>(work.batch) * args.kv_heads + work.kv_head) * args.bias_stride;
      shared.bias[threadIdx.x] =
          args.compact && key < args.compact_length ? args.bias[row + key] * 1.4426950408889634f : 0.0f;
    }
  }
  __syncthreads();
  const QueryTiles tiles = query_tiles(shared.visible, args);
  if (threadIdx.x < 128) {
    sm90::register_dealloc<24>();  // 128 * 24 + 256 * 240 = 384 * 168 or 128 * (24 + 232) = 256 * 128 at the start
    if (threadIdx.x == 0) {
      produce_backward(args, shared, work, tiles);
      // Whoever waits for the launch of the second list must find the one before complete as well.
      const bool last = work.tile == gridDim.y - 1 && work.kv_head == args.kv_heads - 1 && work.batch == args.batch - 1;
      if (!args.compact && last) sm90::wait_for_prerequisites();
    } else if (threadIdx.x % 32 == 0 && threadIdx.x / 32 <= Tile::kParts) {
      add_grad_query<kHeadDim, kConsumers, kDeterministic>(args, shared, work, tiles, threadIdx.x / 32 - 1);
    }
  } else {
    sm90::register_alloc<Tile::kConsumerRegisters>();
    const int steps = args.group * (tiles.end - tiles.first);
    BackwardConsumer<kHeadDim, kConsumers, kBias> consumer(args, shared, work);
    sm90::barrier_wait(&shared.key_value_full, 0);
    if constexpr (kConsumers == 2) {
      consumer.walk_together(steps);
    } else {
      consumer.walk_alone(steps);
    }
    consumer.write_gradients();
  }
}

}  // namespace dga::kernels

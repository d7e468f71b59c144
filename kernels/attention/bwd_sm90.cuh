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

/// Sets scores of keys that a query does not see to -infinity. Rows are keys, columns are queries.
__device__ __forceinline__ void mask_transposed(float (&scores)[32], const BackwardArgs& args, const BackwardWork& work,
                                                int first_query, int first_key) {
  const int64_t bounds_offset = (static_cast<int64_t>(work.batch) * args.kv_heads + work.kv_head) * args.length;
  const int* begins = args.compact ? args.bounds.first_begin : args.bounds.second_begin;
  const int* ends = args.compact ? args.bounds.first_end : args.bounds.second_end;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int query = min(first_query + 8 * i + c, args.length - 1);
      const int begin = begins == nullptr ? 0 : __ldg(begins + bounds_offset + query);
      const int end = __ldg(ends + bounds_offset + query);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int key = first_key + 8 * r;
        if (key < begin || key >= end) scores[4 * i + 2 * r + c] = -INFINITY;
      }
    }
  }
}

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

template <int kHeadDim, int kConsumers, bool kBias>
__device__ __forceinline__ void consume_backward(const BackwardArgs& args, BackwardShared<kHeadDim, kConsumers>& shared,
                                                 const BackwardWork& work, int steps, int consumer) {
  using Tile = BackwardTile<kHeadDim, kConsumers>;
  constexpr int kBuffers = Tile::kBuffers;
  constexpr int kPartsPerConsumer = Tile::kParts / kConsumers;
  constexpr uint32_t kKeyBlockBytes = Tile::kBlockN * 128;
  constexpr uint32_t kQueryBlockBytes = Tile::kBlockM * 128;
  constexpr int kGradQueryRegisters = Tile::kQueryColumns / 2;
  const int thread = threadIdx.x % 128;
  const int local_key = consumer * 64 + thread / 32 * 16 + thread % 32 / 4;
  const int key = work.tile * Tile::kBlockN + local_key;

  float grad_key[kHeadDim / 2], grad_value[kHeadDim / 2];
#pragma unroll
  for (int i = 0; i < kHeadDim / 2; ++i) grad_key[i] = grad_value[i] = 0;
  float grad_bias[2] = {0, 0};

  const uint64_t key_operand = sm90::descriptor_k_major(&shared.key[0][consumer * 64][0]);
  const uint64_t value_operand = sm90::descriptor_k_major(&shared.value[0][consumer * 64][0]);
  const uint64_t key_columns = sm90::descriptor_mn_major(&shared.key[0][0][0], kKeyBlockBytes);
  constexpr uint32_t kPartBytes = kHeadDim == 128 ? kKeyBlockBytes : 64;  // from one part's columns to the next

  sm90::barrier_wait(&shared.key_value_full, 0);
  for (int step = 0; step < steps; ++step) {
    const int stage = step % Tile::kStages;
    const uint32_t parity = step / Tile::kStages & 1;

    // S^T = K Q^T, then dP^T = V dO^T, under which the probabilities are computed; one consumer of its own has not the
    // registers for that, and the block beside it fills the time.
    float scores[32], grad[32];
    uint32_t fragments[16];
    sm90::barrier_wait(&shared.query_full[stage], parity);
    sm90::fence_registers(scores);
    sm90::wgmma_fence();
    const uint64_t query = sm90::descriptor_k_major(&shared.query[stage][0][0][0]);
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
      sm90::wgmma_ss<0, 0>(scores, sm90::descriptor_advance(key_operand, k / 4 * kKeyBlockBytes + k % 4 * 32),
                           sm90::descriptor_advance(query, k / 4 * kQueryBlockBytes + k % 4 * 32), k != 0);
    }
    sm90::wgmma_commit();
    const auto issue_grad_probabilities = [&] {
      sm90::fence_registers(grad);
      sm90::wgmma_fence();
      const uint64_t grad_output = sm90::descriptor_k_major(&shared.grad_output[stage][0][0][0]);
#pragma unroll
      for (int k = 0; k < kHeadDim / 16; ++k) {
        sm90::wgmma_ss<0, 0>(grad, sm90::descriptor_advance(value_operand, k / 4 * kKeyBlockBytes + k % 4 * 32),
                             sm90::descriptor_advance(grad_output, k / 4 * kQueryBlockBytes + k % 4 * 32), k != 0);
      }
      sm90::wgmma_commit();
    };
    if (kConsumers == 2) {
      sm90::barrier_wait(&shared.grad_output_full[stage], parity);
      issue_grad_probabilities();
    }
    sm90::wgmma_wait<kConsumers - 1>();
    sm90::fence_registers(scores);

    // P^T = exp2(scale_log2 * S^T + bias - lse), zero where the key is not visible.
    if (!shared.whole[stage]) {
      mask_transposed(scores, args, work, shared.first_query[stage] + 2 * (thread % 4), key);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 lse = *reinterpret_cast<const float2*>(&shared.log_sum_exp[stage][8 * i + 2 * (thread % 4)]);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float shift = kBias ? shared.bias[local_key + 8 * r] : 0.0f;
        scores[4 * i + 2 * r] = sm90::exp2_approximate(fmaf(scores[4 * i + 2 * r], args.scale_log2, shift - lse.x));
        scores[4 * i + 2 * r + 1] =
            sm90::exp2_approximate(fmaf(scores[4 * i + 2 * r + 1], args.scale_log2, shift - lse.y));
      }
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) fragments[i] = pack_pair(scores[2 * i], scores[2 * i + 1]);

    // dV += P^T dO, under which dS is computed.
    if (kConsumers == 1) sm90::barrier_wait(&shared.grad_output_full[stage], parity);
    sm90::fence_registers(grad_value);
    sm90::fence_registers(fragments);
    sm90::wgmma_fence();
    const uint64_t grad_output_columns =
        sm90::descriptor_mn_major(&shared.grad_output[stage][0][0][0], kQueryBlockBytes);
#pragma unroll
    for (int k = 0; k < Tile::kBlockM / 16; ++k) {
      sm90::wgmma_rs<1>(grad_value, fragments[4 * k], fragments[4 * k + 1], fragments[4 * k + 2], fragments[4 * k + 3],
                        sm90::descriptor_advance(grad_output_columns, k * 2048), 1);
    }
    sm90::wgmma_commit();
    if (kConsumers == 1) {
      sm90::wgmma_wait<0>();
      sm90::fence_registers(grad_value);
      sm90::fence_registers(fragments);
      issue_grad_probabilities();
    }
    sm90::wgmma_wait<kConsumers - 1>();
    sm90::fence_registers(grad);

    // dS^T = P^T * (dP^T - delta)
    uint32_t grad_fragments[16];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 delta = *reinterpret_cast<const float2*>(&shared.delta[stage][8 * i + 2 * (thread % 4)]);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float first = scores[4 * i + 2 * r] * (grad[4 * i + 2 * r] - delta.x);
        const float second = scores[4 * i + 2 * r + 1] * (grad[4 * i + 2 * r + 1] - delta.y);
        if (kBias) grad_bias[r] += first + second;
        grad_fragments[2 * i + r] = pack_pair(first, second);
      }
    }
    // Of two buffers of dS, the barrier below at the next step proves that both warpgroups have read this one.
    if (kBuffers == 1) sm90::named_barrier_sync(1, 128 * kConsumers);
    __nv_bfloat16* grad_scores = &shared.grad_scores[step % kBuffers][0][0];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = local_key + 8 * r;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        *reinterpret_cast<uint32_t*>(grad_scores + row * 64 + (i ^ row % 8) * 8 + 2 * (thread % 4)) =
            grad_fragments[2 * i + r];
      }
    }
    sm90::fence_async_proxy();
    sm90::named_barrier_sync(1, 128 * kConsumers);

    // dQ = dS K, this warpgroup's parts of the columns; dK += dS^T Q under the first part.
    float grad_query[kGradQueryRegisters];
    const uint64_t grad_scores_operand = sm90::descriptor_mn_major(grad_scores, kQueryBlockBytes);
    const auto issue_grad_query = [&](int part) {
#pragma unroll
      for (int k = 0; k < Tile::kBlockN / 16; ++k) {
        sm90::wgmma_ss<1, 1>(grad_query, sm90::descriptor_advance(grad_scores_operand, k * 2048),
                             sm90::descriptor_advance(key_columns, part * kPartBytes + k * 2048), k != 0);
      }
      sm90::wgmma_commit();
    };
    const int buffer = step % kBuffers;
    const auto stage_grad_query = [&](int part) {
      sm90::barrier_wait(&shared.grad_query_empty[buffer][part], (step / kBuffers + 1) & 1);
      float* staging = shared.grad_query[buffer][part];
#pragma unroll
      for (int i = 0; i < kGradQueryRegisters / 4; ++i) {
        *reinterpret_cast<float4*>(staging + (i * 128 + thread) * 4) =
            make_float4(grad_query[4 * i], grad_query[4 * i + 1], grad_query[4 * i + 2], grad_query[4 * i + 3]);
      }
      sm90::fence_async_proxy();
      sm90::barrier_arrive(&shared.grad_query_full[buffer][part]);
    };
    sm90::fence_registers(grad_key);
    sm90::fence_registers(grad_fragments);
    sm90::wgmma_fence();
    issue_grad_query(consumer);
    const uint64_t query_columns = sm90::descriptor_mn_major(&shared.query[stage][0][0][0], kQueryBlockBytes);
#pragma unroll
    for (int k = 0; k < Tile::kBlockM / 16; ++k) {
      sm90::wgmma_rs<1>(grad_key, grad_fragments[4 * k], grad_fragments[4 * k + 1], grad_fragments[4 * k + 2],
                        grad_fragments[4 * k + 3], sm90::descriptor_advance(query_columns, k * 2048), 1);
    }
    sm90::wgmma_commit();
    sm90::wgmma_wait<1>();
    sm90::fence_registers(grad_value);
    sm90::fence_registers(fragments);
    sm90::fence_registers(grad_query);
    if (thread == 0) sm90::barrier_arrive(&shared.grad_output_empty[stage]);
    stage_grad_query(consumer);
    if (kPartsPerConsumer == 2) {
      sm90::fence_registers(grad_query);
      sm90::wgmma_fence();
      issue_grad_query(1);
      sm90::wgmma_wait<0>();
      sm90::fence_registers(grad_query);
      stage_grad_query(1);
    }
    sm90::wgmma_wait<0>();
    sm90::fence_registers(grad_key);
    if (thread == 0) sm90::barrier_arrive(&shared.query_empty[stage]);
  }

  if (kBias && args.compact) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      grad_bias[r] += __shfl_xor_sync(0xffffffff, grad_bias[r], 1);
      grad_bias[r] += __shfl_xor_sync(0xffffffff, grad_bias[r], 2);
      if (thread % 4 == 0 && key + 8 * r < args.compact_length) {
        const int64_t head = static_cast<int64_t>(work.batch) * args.kv_heads + work.kv_head;
        args.grad_bias[head * args.bias_stride + key + 8 * r] = grad_bias[r];
      }
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
      sm90::barrier_init(&shared.query_empty[stage], Tile::kConsumers);
      sm90::barrier_init(&shared.grad_output_full[stage], 1);
      sm90::barrier_init(&shared.grad_output_empty[stage], Tile::kConsumers);
    }
    for (int i = 0; i < Tile::kBuffers * Tile::kParts; ++i) {
      sm90::barrier_init(&shared.grad_query_full[i / Tile::kParts][i % Tile::kParts], 128);
      sm90::barrier_init(&shared.grad_query_empty[i / Tile::kParts][i % Tile::kParts], 1);
    }
    sm90::barrier_init_fence();
  }
  const int tiles = args.compact_tiles + args.second_tiles;
  const int4 interval = args.intervals[(static_cast<int64_t>(work.batch) * args.kv_heads + work.kv_head) * tiles +
                                       (args.compact ? 0 : args.compact_tiles) + work.tile];
  if (kBias && threadIdx.x < Tile::kBlockN) {
    const int key = work.tile * Tile::kBlockN + threadIdx.x;
    const int64_t row = (static_cast<int64_t>(work.batch) * args.kv_heads + work.kv_head) * args.bias_stride;
    shared.bias[threadIdx.x] =
        args.compact && key < args.compact_length ? args.bias[row + key] * 1.4426950408889634f : 0.0f;
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    sm90::register_dealloc<24>();  // 128 * 24 + 256 * 240 = 384 * 168 or 128 * (24 + 232) = 256 * 128 at the start
    if (threadIdx.x == 0) {
      produce_backward(args, shared, work, interval);
      // Whoever waits for the launch of the second list must find the one before complete as well.
      const bool last = work.tile == gridDim.y - 1 && work.kv_head == args.kv_heads - 1 && work.batch == args.batch - 1;
      if (!args.compact && last) sm90::wait_for_prerequisites();
    } else if (threadIdx.x % 32 == 0 && threadIdx.x / 32 <= Tile::kParts) {
      add_grad_query<kHeadDim, kConsumers, kDeterministic>(args, shared, work, interval, threadIdx.x / 32 - 1);
    }
  } else {
    sm90::register_alloc<Tile::kConsumerRegisters>();
    const int steps = args.heads / args.kv_heads * (interval.y - interval.x);
    consume_backward<kHeadDim, kConsumers, kBias>(args, shared, work, steps, threadIdx.x / 128 - 1);
  }
}

}  // namespace dga::kernels

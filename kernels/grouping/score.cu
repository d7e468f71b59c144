#include <cuda_bf16.h>

#include <algorithm>

#include "kernels/attention/tensor_map.h"
#include "kernels/common/check.h"
#include "kernels/common/hopper.cuh"
#include "kernels/common/wgmma.cuh"
#include "kernels/grouping/score.h"

// Cost: two passes of S * L / 2 pairs a head, 2 D FLOP each: 275 GFLOP for S = 1024, L = 32K, 32 heads, D = 128, and as
// many exponentials as pairs, which take the special-function unit as long as the products take the tensor cores. Two
// blocks share a multiprocessor, four warpgroups in all, so that some compute exponentials under the products of the
// others; a warp of each block does nothing but load.
namespace dga::kernels {
namespace {

constexpr int kTile = 128;  // rows and columns of a tile of scores; 64 rows a warpgroup
constexpr int kStages = 2;
constexpr int kThreads = 2 * 128 + 32;
constexpr int kProducer = 2 * 128;  // the loading thread
constexpr int kChunkTiles = 32;     // key tiles a block of the first pass takes: 4096 keys, short enough to balance
constexpr float kLog2e = 1.4426950408889634f;

template <int kHeadDim>
struct ScoreShared {
  alignas(1024) __nv_bfloat16 fixed[kHeadDim / 64][kTile][64];
  alignas(1024) __nv_bfloat16 streamed[kStages][kHeadDim / 64][kTile][64];
  alignas(128) float log_sum_exp[kStages][kTile];
  uint64_t fixed_full, full[kStages], empty[kStages];
};

struct ScoreArgs {
  CUtensorMap query;  // gathered [B, S, H, D]
  CUtensorMap key;    // [B, L, G, D]
  SampleTable table;
  float2* partial;     // [chunks, B, H, padded S]: maximum (base 2) and sum of a chunk's exponentials
  float* log_sum_exp;  // [B, H, padded S] of the sampled queries, base 2; infinity for unused entries
  float* importance;
  const int2* seen_by;  // [B, L]: the sampled queries [x, y) that see the key
  int length, heads, kv_heads, samples, sample_tiles, chunks;
  float scale_log2;
};

/// Copies the sampled rows of the queries together. One warp a row and head.
__global__ void gather_queries_kernel(const __nv_bfloat16* query, int64_t batch_stride, int64_t row_stride,
                                      int64_t head_stride, SampleTable table, int heads, int head_dim,
                                      __nv_bfloat16* gathered) {
  const int sample = blockIdx.x, batch = blockIdx.z;
  const int head = blockIdx.y * blockDim.y + threadIdx.y;
  if (head >= heads) return;
  const int position = max(table.positions[batch * table.samples + sample], 0);
  const auto* source =
      reinterpret_cast<const uint4*>(query + batch * batch_stride + position * row_stride + head * head_stride);
  auto* target = reinterpret_cast<uint4*>(gathered + ((batch * table.samples + sample) * heads + head) * head_dim);
  if (threadIdx.x < head_dim / 8) target[threadIdx.x] = source[threadIdx.x];
}

/// Completes on `barrier` together with `more_bytes` that the caller loads.
template <int kHeadDim>
__device__ __forceinline__ void load_tile(void* target, const CUtensorMap* map, uint64_t* barrier, int row, int head,
                                          int batch, uint32_t more_bytes = 0) {
  sm90::barrier_arrive_expect_bytes(barrier, kTile * kHeadDim * sizeof(__nv_bfloat16) + more_bytes);
  for (int block = 0; block < kHeadDim / 64; ++block) {
    sm90::tensor_load(static_cast<__nv_bfloat16*>(target) + block * kTile * 64, map, barrier, block * 64, row, head,
                      batch);
  }
}

template <int kHeadDim>
__device__ __forceinline__ void init_barriers(ScoreShared<kHeadDim>& shared) {
  if (threadIdx.x == 0) {
    sm90::barrier_init(&shared.fixed_full, 1);
    for (int stage = 0; stage < kStages; ++stage) {
      sm90::barrier_init(&shared.full[stage], 1);
      sm90::barrier_init(&shared.empty[stage], kProducer / 32 * sm90::kGroupArrivals<32>);
    }
    sm90::barrier_init_fence();
  }
  __syncthreads();
}

/// scores[64, 128] = 64 rows of the fixed tile times the streamed tile transposed.
template <int kHeadDim>
__device__ __forceinline__ void multiply(float (&scores)[64], const ScoreShared<kHeadDim>& shared, int warpgroup,
                                         int stage) {
  const uint64_t a = sm90::descriptor_k_major(&shared.fixed[0][warpgroup * 64][0]);
  const uint64_t b = sm90::descriptor_k_major(&shared.streamed[stage][0][0][0]);
  sm90::fence_registers(scores);
  sm90::wgmma_fence();
#pragma unroll
  for (int k = 0; k < kHeadDim / 16; ++k) {
    const uint32_t offset = k / 4 * (kTile * 128) + k % 4 * 32;
    sm90::wgmma_ss<0, 0>(scores, sm90::descriptor_advance(a, offset), sm90::descriptor_advance(b, offset), k != 0);
  }
  sm90::wgmma_commit();
  sm90::wgmma_wait<0>();
  sm90::fence_registers(scores);
}

/// First pass: for 128 sampled queries of a head and one chunk of keys, the maximum and the sum of the exponentials.
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 2) score_rows_kernel(const __grid_constant__ ScoreArgs args) {
  auto& shared = sm90::dynamic_shared<ScoreShared<kHeadDim>>();
  init_barriers(shared);
  const int tile = args.sample_tiles - 1 - blockIdx.x, chunk = blockIdx.y;  // the last queries see the most keys
  const int head = blockIdx.z % args.heads, batch = blockIdx.z / args.heads;
  const int kv_head = head / (args.heads / args.kv_heads);
  const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / 128, 0), thread = threadIdx.x % 128;
  const int32_t* positions = args.table.positions + batch * args.table.samples;
  const int32_t* begins = args.table.begins + batch * args.table.samples;
  int rows[2], position[2], begin[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    rows[r] = tile * kTile + warpgroup * 64 + thread / 32 * 16 + thread % 32 / 4 + 8 * r;
    position[r] = rows[r] < args.samples ? positions[rows[r]] : -1;
    begin[r] = rows[r] < args.samples ? begins[rows[r]] : 0;
  }
  int last_position = -1;  // of the tile; unused entries stand at the end of a row
  for (int i = threadIdx.x % 32; i < kTile; i += 32) {
    if (tile * kTile + i < args.samples) last_position = max(last_position, positions[tile * kTile + i]);
  }
  last_position = __reduce_max_sync(0xffffffff, last_position);
  const int first_begin = tile * kTile < args.samples ? begins[tile * kTile] : 0;
  const int first = max(chunk * kChunkTiles, first_begin / kTile);
  const int last = min((chunk + 1) * kChunkTiles, last_position / kTile + (last_position >= 0 ? 1 : 0));
  if (threadIdx.x >= kProducer) {
    if (threadIdx.x == kProducer && first < last) {
      load_tile<kHeadDim>(shared.fixed, &args.query, &shared.fixed_full, tile * kTile, head, batch);
      for (int i = first; i < last; ++i) {
        const int stage = (i - first) % kStages;
        sm90::barrier_wait(&shared.empty[stage], ((i - first) / kStages + 1) & 1);
        load_tile<kHeadDim>(shared.streamed[stage], &args.key, &shared.full[stage], i * kTile, kv_head, batch);
      }
    }
    return;
  }
  float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  if (first < last) sm90::barrier_wait(&shared.fixed_full, 0);
#pragma unroll 1
  for (int i = first; i < last; ++i) {
    const int stage = (i - first) % kStages;
    sm90::barrier_wait(&shared.full[stage], (i - first) / kStages & 1);
    float scores[64];
    multiply(scores, shared, warpgroup, stage);
    sm90::barrier_arrive_together<32>(&shared.empty[stage], threadIdx.x);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int low = begin[r] - i * kTile - 2 * (thread % 4), high = position[r] - i * kTile - 2 * (thread % 4);
      if (begin[r] > i * kTile || position[r] < (i + 1) * kTile - 1) {
#pragma unroll
        for (int j = 0; j < 16; ++j) {
          if (8 * j < low || 8 * j > high) scores[4 * j + 2 * r] = -INFINITY;
          if (8 * j + 1 < low || 8 * j + 1 > high) scores[4 * j + 2 * r + 1] = -INFINITY;
        }
      }
      float top = maximum[r];
#pragma unroll
      for (int j = 0; j < 16; ++j) top = fmaxf(top, fmaxf(scores[4 * j + 2 * r], scores[4 * j + 2 * r + 1]));
      const float offset = top == -INFINITY ? 0.0f : top * args.scale_log2;
      float added = 0;
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        added += sm90::exp2_approximate(fmaf(scores[4 * j + 2 * r], args.scale_log2, -offset)) +
                 sm90::exp2_approximate(fmaf(scores[4 * j + 2 * r + 1], args.scale_log2, -offset));
      }
      sum[r] = sum[r] * sm90::exp2_approximate(maximum[r] * args.scale_log2 - offset) + added;
      maximum[r] = top;
    }
  }
  // The four threads of a row combine; every entry of `partial` is written, so that combine_chunks_kernel may read it.
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float top = fmaxf(maximum[r], __shfl_xor_sync(0xffffffff, maximum[r], 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 2));
    const float offset = top == -INFINITY ? 0.0f : top * args.scale_log2;
    float total = sum[r] * sm90::exp2_approximate(maximum[r] * args.scale_log2 - offset);
    total += __shfl_xor_sync(0xffffffff, total, 1);
    total += __shfl_xor_sync(0xffffffff, total, 2);
    if (thread % 4 == 0) {
      const int64_t batch_heads = static_cast<int64_t>(gridDim.z);
      args.partial[(chunk * batch_heads + blockIdx.z) * args.sample_tiles * kTile + rows[r]] =
          make_float2(offset, total);
    }
  }
}

/// Combines the chunks' sums in order. One block of 128 threads per 128 sampled queries of a head.
__global__ void __launch_bounds__(kTile) combine_chunks_kernel(const __grid_constant__ ScoreArgs args) {
  const int sample = blockIdx.x * kTile + threadIdx.x, batch_head = blockIdx.y;
  const int64_t batch_heads = gridDim.y, padded = args.sample_tiles * kTile;
  const int position =
      sample < args.samples ? args.table.positions[batch_head / args.heads * args.samples + sample] : -1;
  float top = -INFINITY, total = 0;
  const int chunks = position >= 0 ? position / (kChunkTiles * kTile) + 1 : 0;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const float2 part = args.partial[(chunk * batch_heads + batch_head) * padded + sample];
    if (part.y == 0) continue;  // a chunk before the query's document
    const float next = fmaxf(top, part.x);
    total = total * sm90::exp2_approximate(top - next) + part.y * sm90::exp2_approximate(part.x - next);
    top = next;
  }
  // An unused query's probabilities become zero.
  args.log_sum_exp[batch_head * padded + sample] = total > 0 ? top + log2f(total) : INFINITY;
}

/// First index of the non-decreasing values[0, count) that is at least `limit`.
__device__ __forceinline__ int lower_bound(const int32_t* values, int count, int limit) {
  int low = 0;
  while (count > 0) {
    const int half = count / 2;
    if (values[low + half] < limit) {
      low += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  return low;
}

/// One thread a key: which sampled queries see it. One interval, because positions and begins never decrease.
__global__ void __launch_bounds__(128)
    seen_by_kernel(const int32_t* positions, const int32_t* begins, int samples, int length, int2* seen_by) {
  const int key = blockIdx.x * 128 + threadIdx.x, batch = blockIdx.y;
  if (key >= length) return;
  positions += batch * samples;
  begins += batch * samples;
  int used = samples;  // entries of this row; unused ones (-1) stand at its end
  if (positions[samples - 1] < 0) {
    int low = 0;
    while (low < used) positions[(low + used) / 2] >= 0 ? low = (low + used) / 2 + 1 : used = (low + used) / 2;
  }
  seen_by[static_cast<int64_t>(batch) * length + key] =
      make_int2(lower_bound(positions, used, key), lower_bound(begins, used, key + 1));
}

/// Second pass: for 128 keys of a KV head, the sum of their probabilities over the sampled queries that see them.
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 2) score_columns_kernel(const __grid_constant__ ScoreArgs args) {
  auto& shared = sm90::dynamic_shared<ScoreShared<kHeadDim>>();
  init_barriers(shared);
  const int tile = blockIdx.x, kv_head = blockIdx.y, batch = blockIdx.z;
  const int group = args.heads / args.kv_heads;
  const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / 128, 0), thread = threadIdx.x % 128;
  const int2* seen_by = args.seen_by + static_cast<int64_t>(batch) * args.length;
  const int2 first_key = seen_by[tile * kTile], last_key = seen_by[min((tile + 1) * kTile, args.length) - 1];
  const int first = first_key.x / kTile;  // sample tile
  const int tiles = first_key.x < last_key.y ? (last_key.y + kTile - 1) / kTile - first : 0;
  const int steps = tiles * group;
  if (threadIdx.x >= kProducer) {
    if (threadIdx.x == kProducer && steps > 0) {
      load_tile<kHeadDim>(shared.fixed, &args.key, &shared.fixed_full, tile * kTile, kv_head, batch);
#pragma unroll 1
      for (int step = 0; step < steps; ++step) {
        const int stage = step % kStages, sample_tile = first + step % tiles, head = kv_head * group + step / tiles;
        sm90::barrier_wait(&shared.empty[stage], (step / kStages + 1) & 1);
        load_tile<kHeadDim>(shared.streamed[stage], &args.query, &shared.full[stage], sample_tile * kTile, head, batch,
                            sizeof(shared.log_sum_exp[0]));
        sm90::bulk_load(
            shared.log_sum_exp[stage],
            args.log_sum_exp +
                ((batch * args.heads + head) * static_cast<int64_t>(args.sample_tiles) + sample_tile) * kTile,
            sizeof(shared.log_sum_exp[0]), &shared.full[stage]);
      }
    }
    return;
  }
  const int key = tile * kTile + warpgroup * 64 + thread / 32 * 16 + thread % 32 / 4;
  int2 seen[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) seen[r] = seen_by[min(key + 8 * r, args.length - 1)];
  float importance[2] = {0, 0};
  if (steps > 0) sm90::barrier_wait(&shared.fixed_full, 0);
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    const int stage = step % kStages, first_sample = (first + step % tiles) * kTile;
    sm90::barrier_wait(&shared.full[stage], step / kStages & 1);
    float scores[64];
    multiply(scores, shared, warpgroup, stage);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (seen[r].x > first_sample || seen[r].y < first_sample + kTile) {
        const int begin = seen[r].x - first_sample - 2 * (thread % 4),
                  end = seen[r].y - first_sample - 2 * (thread % 4);
#pragma unroll
        for (int j = 0; j < 16; ++j) {
          if (8 * j < begin || 8 * j >= end) scores[4 * j + 2 * r] = -INFINITY;
          if (8 * j + 1 < begin || 8 * j + 1 >= end) scores[4 * j + 2 * r + 1] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      const float2 lse = *reinterpret_cast<const float2*>(&shared.log_sum_exp[stage][8 * j + 2 * (thread % 4)]);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        importance[r] += sm90::exp2_approximate(fmaf(scores[4 * j + 2 * r], args.scale_log2, -lse.x)) +
                         sm90::exp2_approximate(fmaf(scores[4 * j + 2 * r + 1], args.scale_log2, -lse.y));
      }
    }
    __syncwarp();
    sm90::barrier_arrive_together<32>(&shared.empty[stage], threadIdx.x);  // the warp has read its sums, too
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    importance[r] += __shfl_xor_sync(0xffffffff, importance[r], 1);
    importance[r] += __shfl_xor_sync(0xffffffff, importance[r], 2);
    if (thread % 4 == 0 && key + 8 * r < args.length) {
      args.importance[(static_cast<int64_t>(batch) * args.kv_heads + kv_head) * args.length + key + 8 * r] =
          importance[r];
    }
  }
}

int64_t tiles_of(int64_t count) { return (count + kTile - 1) / kTile; }

struct Workspace {
  int64_t chunks, partial, log_sum_exp, seen_by, total;
};

Workspace layout(const Shape& shape, int64_t samples) {
  const auto aligned = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
  Workspace parts{};
  parts.chunks = (tiles_of(shape.length) + kChunkTiles - 1) / kChunkTiles;
  parts.partial = aligned(shape.batch * samples * shape.heads * shape.head_dim * 2);
  const int64_t entries = shape.batch * shape.heads * tiles_of(samples) * kTile;
  parts.log_sum_exp = parts.partial + aligned(parts.chunks * entries * 8);
  parts.seen_by = parts.log_sum_exp + aligned(entries * 4);
  parts.total = parts.seen_by + aligned(shape.batch * shape.length * 8);
  return parts;
}

template <int kHeadDim>
void launch(const ScoreParams& params, cudaStream_t stream) {
  const Shape& shape = params.shape;
  const int64_t samples = params.table.samples;
  const Workspace parts = layout(shape, samples);
  auto* workspace = static_cast<std::byte*>(params.workspace);
  auto* gathered = reinterpret_cast<__nv_bfloat16*>(workspace);
  const TensorRef& query = params.query;
  const dim3 gather_grid(static_cast<unsigned>(samples), static_cast<unsigned>((shape.heads + 7) / 8),
                         static_cast<unsigned>(shape.batch));
  gather_queries_kernel<<<gather_grid, dim3(kHeadDim / 8, 8), 0, stream>>>(
      static_cast<const __nv_bfloat16*>(query.data), query.batch_stride, query.row_stride, query.head_stride,
      params.table, static_cast<int>(shape.heads), kHeadDim, gathered);
  DGA_CUDA_CHECK(cudaGetLastError());

  ScoreArgs args{};
  const TensorRef gathered_ref{gathered, samples * shape.heads * kHeadDim, shape.heads * kHeadDim, kHeadDim};
  args.query = make_tensor_map(gathered_ref, shape.batch, samples, shape.heads, kHeadDim, kTile);
  args.key = make_tensor_map(params.key, shape.batch, shape.length, shape.kv_heads, kHeadDim, kTile);
  args.table = params.table;
  args.partial = reinterpret_cast<float2*>(workspace + parts.partial);
  args.log_sum_exp = reinterpret_cast<float*>(workspace + parts.log_sum_exp);
  args.importance = params.importance;
  args.seen_by = reinterpret_cast<const int2*>(workspace + parts.seen_by);
  args.length = static_cast<int>(shape.length);
  args.heads = static_cast<int>(shape.heads);
  args.kv_heads = static_cast<int>(shape.kv_heads);
  args.samples = static_cast<int>(samples);
  args.sample_tiles = static_cast<int>(tiles_of(samples));
  args.chunks = static_cast<int>(parts.chunks);
  args.scale_log2 = params.scale * kLog2e;
  const dim3 keys_grid(static_cast<unsigned>(tiles_of(shape.length)), static_cast<unsigned>(shape.batch));
  seen_by_kernel<<<keys_grid, kTile, 0, stream>>>(params.table.positions, params.table.begins, args.samples,
                                                  args.length, const_cast<int2*>(args.seen_by));
  DGA_CUDA_CHECK(cudaGetLastError());
  const int shared_bytes = static_cast<int>(sizeof(ScoreShared<kHeadDim>));
  DGA_CUDA_CHECK(
      cudaFuncSetAttribute(score_rows_kernel<kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  DGA_CUDA_CHECK(
      cudaFuncSetAttribute(score_columns_kernel<kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  const dim3 rows_grid(args.sample_tiles, args.chunks, static_cast<unsigned>(shape.batch * shape.heads));
  score_rows_kernel<kHeadDim><<<rows_grid, kThreads, shared_bytes, stream>>>(args);
  DGA_CUDA_CHECK(cudaGetLastError());
  const dim3 combine_grid(args.sample_tiles, static_cast<unsigned>(shape.batch * shape.heads));
  combine_chunks_kernel<<<combine_grid, kTile, 0, stream>>>(args);
  DGA_CUDA_CHECK(cudaGetLastError());
  const dim3 columns_grid(static_cast<unsigned>(tiles_of(shape.length)), args.kv_heads,
                          static_cast<unsigned>(shape.batch));
  score_columns_kernel<kHeadDim><<<columns_grid, kThreads, shared_bytes, stream>>>(args);
  DGA_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

size_t score_workspace_bytes(const Shape& shape, int64_t samples) {
  return static_cast<size_t>(layout(shape, samples).total);
}

void score(const ScoreParams& params, cudaStream_t stream) {
  params.shape.head_dim == 128 ? launch<128>(params, stream) : launch<64>(params, stream);
}

}  // namespace dga::kernels

#include <algorithm>

#include "kernels/attention/attention.h"
#include "kernels/attention/bwd_prepare.cuh"
#include "kernels/attention/bwd_sm90.cuh"
#include "kernels/attention/tensor_map.h"
#include "kernels/common/check.h"

namespace dga::kernels {
namespace {

int64_t tiles_of(int64_t rows, int64_t tile) { return (rows + tile - 1) / tile; }

// A key of the second list that fewer queries see than this is computed in blocks of 64 keys: the measured crossing.
constexpr int64_t kNarrowSpan = 256;

// Heads that share keys make few and long blocks: the last ones would run alone, so the longest of several heads start
// together. Otherwise the blocks of one head start together and find its queries in the cache; measured at 32K, DGA: r
// = 4 14.1 to 12.7 ms, but r = 1 8.2 to 9.2 ms.
constexpr int64_t kSectionBlocks = 132;  // one a multiprocessor of an H100

int64_t second_block(const Shape& shape) { return shape.second_span < kNarrowSpan ? 64 : 128; }

// Byte offsets of the parts of the workspace.
struct Workspace {
  int64_t grad_query, log_sum_exp, delta, visible, semaphores, turns, total;
};

Workspace layout(const Shape& shape, bool deterministic) {
  const auto aligned = [](int64_t bytes) { return tiles_of(bytes, 256) * 256; };
  const int64_t tiles = tiles_of(shape.length, 64);
  const int64_t batch_heads = shape.batch * shape.heads;
  const int64_t keys = shape.batch * shape.kv_heads * (shape.compact_length + shape.second_length);
  Workspace parts{};
  parts.log_sum_exp = aligned(batch_heads * tiles * 64 * shape.head_dim * 4);
  parts.delta = parts.log_sum_exp + aligned(batch_heads * tiles * 64 * 4);
  parts.visible = parts.delta + aligned(batch_heads * tiles * 64 * 4);
  parts.semaphores = parts.visible + aligned(keys * 8);
  parts.turns = parts.semaphores + (deterministic ? aligned(batch_heads * tiles * 2 * 4) : 0);
  parts.total = parts.turns + (deterministic ? aligned(shape.batch * shape.kv_heads * tiles * 8) : 0);
  return parts;
}

template <int kHeadDim>
void prepare(const BackwardParams& params, const BackwardArgs& args, cudaStream_t stream) {
  const Shape& shape = params.inputs.shape;
  PrepareArgs prepare{};
  prepare.output = static_cast<const __nv_bfloat16*>(params.output.data);
  prepare.grad_output = static_cast<const __nv_bfloat16*>(params.grad_output.data);
  const auto strides = [](const TensorRef& tensor, int64_t(&target)[3]) {
    target[0] = tensor.batch_stride;
    target[1] = tensor.row_stride;
    target[2] = tensor.head_stride;
  };
  strides(params.output, prepare.output_strides);
  strides(params.grad_output, prepare.grad_output_strides);
  prepare.log_sum_exp = params.log_sum_exp;
  prepare.log_sum_exp_log2 = const_cast<float*>(args.log_sum_exp_log2);
  prepare.delta = const_cast<float*>(args.delta);
  prepare.grad_query = reinterpret_cast<float4*>(args.grad_query);
  prepare.length = args.length;
  prepare.heads = args.heads;
  prepare.query_tiles = args.query_tiles;
  const dim3 grid(args.query_tiles, args.heads, static_cast<unsigned>(shape.batch));
  backward_prepare_kernel<kHeadDim><<<grid, 256, 0, stream>>>(prepare);
  DGA_CUDA_CHECK(cudaGetLastError());
  const dim3 key_grid(static_cast<unsigned>(tiles_of(args.compact_length + args.second_length, 128)),
                      static_cast<unsigned>(shape.batch * shape.kv_heads));
  visible_queries_kernel<<<key_grid, 128, 0, stream>>>(args.bounds, args.length, args.compact_length,
                                                       args.second_length, const_cast<int2*>(args.visible));
  DGA_CUDA_CHECK(cudaGetLastError());
  if (params.deterministic) {
    DGA_CUDA_CHECK(
        cudaMemsetAsync(args.semaphores, 0, shape.batch * shape.heads * args.query_tiles * 2 * sizeof(int), stream));
    const dim3 turn_grid((args.query_tiles + 127) / 128, static_cast<unsigned>(shape.batch * shape.kv_heads));
    turns_kernel<<<turn_grid, 128, 0, stream>>>(args.bounds, args.length, args.query_tiles,
                                                static_cast<int>(second_block(shape)),
                                                reinterpret_cast<int2*>(const_cast<int*>(args.turns)));
    DGA_CUDA_CHECK(cudaGetLastError());
  }
}

template <int kHeadDim>
void finish(const BackwardParams& params, const BackwardArgs& args, cudaStream_t stream) {
  FinishArgs finish{};
  finish.grad_query = reinterpret_cast<const float4*>(args.grad_query);
  finish.output = static_cast<__nv_bfloat16*>(const_cast<void*>(params.grad_query.data));
  finish.strides[0] = params.grad_query.batch_stride;
  finish.strides[1] = params.grad_query.row_stride;
  finish.strides[2] = params.grad_query.head_stride;
  finish.length = args.length;
  finish.heads = args.heads;
  finish.query_tiles = args.query_tiles;
  finish.scale = args.scale;
  const dim3 grid(args.query_tiles, args.heads, static_cast<unsigned>(params.inputs.shape.batch));
  backward_finish_kernel<kHeadDim><<<grid, 256, 0, stream>>>(finish);
  DGA_CUDA_CHECK(cudaGetLastError());
}

enum class StartsAfter { previous_complete, previous_started };

/// One list's tiles.
template <int kHeadDim, int kConsumers, bool kBias, bool kDeterministic>
void launch_list(BackwardArgs args, bool compact, StartsAfter start, cudaStream_t stream) {
  using Tile = BackwardTile<kHeadDim, kConsumers>;
  const auto kernel = backward_kernel<kHeadDim, kConsumers, kBias, kDeterministic>;
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  args.compact = compact;
  const int tiles = compact ? args.compact_tiles : args.second_tiles, heads = args.batch * args.kv_heads;
  const bool shared_keys = args.heads > args.kv_heads;
  const auto section =
      static_cast<unsigned>(shared_keys ? std::min<int64_t>(tiles_of(kSectionBlocks, tiles), heads) : 1);
  config.gridDim = dim3(section, static_cast<unsigned>(tiles), static_cast<unsigned>(tiles_of(heads, section)));
  config.blockDim = Tile::kThreads;
  config.dynamicSmemBytes = sizeof(BackwardShared<kHeadDim, kConsumers>);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = start == StartsAfter::previous_started ? 1 : 0;
  DGA_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(config.dynamicSmemBytes)));
  DGA_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, args));
}

template <int kHeadDim, bool kBias, bool kDeterministic>
void launch(const BackwardParams& params, cudaStream_t stream) {
  const Shape& shape = params.inputs.shape;
  const auto list_map = [&](const TensorRef& list, int64_t rows) {
    return make_list_map(list, rows, params.inputs, 64);
  };
  const auto query_map = [&](const TensorRef& tensor) {
    return make_tensor_map(tensor, shape.batch, shape.length, shape.heads, kHeadDim, 64);
  };
  const Workspace parts = layout(shape, params.deterministic);
  auto* workspace = static_cast<std::byte*>(params.workspace);
  BackwardArgs args{};
  args.query = query_map(params.inputs.query);
  args.grad_output = query_map(params.grad_output);
  args.compact_key = list_map(params.inputs.compact_key, shape.compact_length);
  args.compact_value = list_map(params.inputs.compact_value, shape.compact_length);
  args.second_key = list_map(params.inputs.second_key, shape.second_length);
  args.second_value = list_map(params.inputs.second_value, shape.second_length);
  args.grad_compact_key = list_map(params.grad_compact_key, shape.compact_length);
  args.grad_compact_value = list_map(params.grad_compact_value, shape.compact_length);
  args.grad_second_key = list_map(params.grad_second_key, shape.second_length);
  args.grad_second_value = list_map(params.grad_second_value, shape.second_length);
  args.bounds = params.inputs.bounds;
  args.bias = params.inputs.compact_bias;
  args.grad_bias = params.grad_bias;
  args.bias_stride = params.inputs.bias_stride;
  args.visible = reinterpret_cast<const int2*>(workspace + parts.visible);
  args.log_sum_exp_log2 = reinterpret_cast<const float*>(workspace + parts.log_sum_exp);
  args.delta = reinterpret_cast<const float*>(workspace + parts.delta);
  args.grad_query = reinterpret_cast<float*>(workspace + parts.grad_query);
  args.semaphores = reinterpret_cast<int*>(workspace + parts.semaphores);
  args.turns = reinterpret_cast<const int*>(workspace + parts.turns);
  args.length = static_cast<int>(shape.length);
  args.heads = static_cast<int>(shape.heads);
  args.kv_heads = static_cast<int>(shape.kv_heads);
  args.group = args.heads / args.kv_heads;
  args.batch = static_cast<int>(shape.batch);
  args.compact_length = static_cast<int>(shape.compact_length);
  args.second_length = static_cast<int>(shape.second_length);
  args.query_tiles = static_cast<int>(tiles_of(shape.length, 64));
  args.compact_tiles = static_cast<int>(tiles_of(shape.compact_length, 128));
  args.second_tiles = static_cast<int>(tiles_of(shape.second_length, second_block(shape)));
  args.scale = params.inputs.scale;
  args.scale_log2 = params.inputs.scale * 1.4426950408889634f;

  prepare<kHeadDim>(params, args, stream);
  if (args.compact_tiles > 0) {
    launch_list<kHeadDim, 2, kBias, kDeterministic>(args, /*compact=*/true, StartsAfter::previous_complete, stream);
  }
  if (args.second_tiles > 0) {
    // Short tiles fill what the last long ones leave idle: they may start once all blocks of the first launch have,
    // and so a deterministic block never waits for one that has not started.
    const auto start = args.compact_tiles > 0 ? StartsAfter::previous_started : StartsAfter::previous_complete;
    if (second_block(shape) == 64) {
      launch_list<kHeadDim, 1, /*kBias=*/false, kDeterministic>(args, /*compact=*/false, start, stream);
    } else {
      launch_list<kHeadDim, 2, /*kBias=*/false, kDeterministic>(args, /*compact=*/false, start, stream);
    }
  }
  finish<kHeadDim>(params, args, stream);
}

}  // namespace

size_t backward_workspace_bytes(const Shape& shape, bool deterministic) {
  return static_cast<size_t>(layout(shape, deterministic).total);
}

void backward(const BackwardParams& params, cudaStream_t stream) {
  const auto with = [&]<int kHeadDim, bool kBias>() {
    params.deterministic ? launch<kHeadDim, kBias, true>(params, stream)
                         : launch<kHeadDim, kBias, false>(params, stream);
  };
  const bool bias = params.inputs.compact_bias != nullptr;
  if (params.inputs.shape.head_dim == 128) {
    bias ? with.template operator()<128, true>() : with.template operator()<128, false>();
  } else {
    bias ? with.template operator()<64, true>() : with.template operator()<64, false>();
  }
}

}  // namespace dga::kernels

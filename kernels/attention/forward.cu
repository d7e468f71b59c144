#include <algorithm>

#include "kernels/attention/attention.h"
#include "kernels/attention/fwd_sm90.cuh"
#include "kernels/attention/sections.h"
#include "kernels/attention/tensor_map.h"
#include "kernels/common/check.h"

namespace dga::kernels {
namespace {

template <int kHeadDim, bool kBias>
void launch(const ForwardParams& params, cudaStream_t stream) {
  using Tile = ForwardTile<kHeadDim>;
  const Shape& shape = params.inputs.shape;
  const auto list_map = [&](const TensorRef& list, int64_t rows) {
    return make_list_map(list, rows, params.inputs, Tile::kBlockN);
  };
  ForwardArgs args{};
  args.query = make_tensor_map(params.inputs.query, shape.batch, shape.length, shape.heads, kHeadDim, 64);
  args.output = make_tensor_map(params.output, shape.batch, shape.length, shape.heads, kHeadDim, 64);
  args.compact_key = list_map(params.inputs.compact_key, shape.compact_length);
  args.compact_value = list_map(params.inputs.compact_value, shape.compact_length);
  args.second_key = list_map(params.inputs.second_key, shape.second_length);
  args.second_value = list_map(params.inputs.second_value, shape.second_length);
  if (kBias) {
    args.bias = make_bias_map(params.inputs.compact_bias, shape.batch, shape.kv_heads, shape.compact_length,
                              params.inputs.bias_stride);
  }
  args.bounds = params.inputs.bounds;
  args.log_sum_exp = params.log_sum_exp;
  args.counter = params.counter;
  args.length = static_cast<int>(shape.length);
  args.heads = static_cast<int>(shape.heads);
  args.kv_heads = static_cast<int>(shape.kv_heads);
  args.query_tiles = static_cast<int>((shape.length + Tile::kBlockM - 1) / Tile::kBlockM);
  const int64_t group = shape.heads / shape.kv_heads;
  const int64_t bytes_per_head = 2 * (shape.compact_length + shape.second_length) * kHeadDim * 2 / group;
  args.heads_per_section = heads_per_section(shape.batch * shape.heads, group, bytes_per_head);
  args.scale_log2 = params.inputs.scale * 1.4426950408889634f;

  const int shared_bytes = static_cast<int>(sizeof(ForwardShared<kHeadDim>));
  const auto kernel = forward_kernel<kHeadDim, kBias>;
  DGA_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  int device = 0, multiprocessors = 0;
  DGA_CUDA_CHECK(cudaGetDevice(&device));
  DGA_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  args.works = static_cast<int>(args.query_tiles * shape.heads * shape.batch);
  DGA_CUDA_CHECK(cudaMemsetAsync(args.counter, 0, sizeof(int), stream));
  kernel<<<std::min(args.works, multiprocessors), Tile::kThreads, shared_bytes, stream>>>(args);
  DGA_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void forward(const ForwardParams& params, cudaStream_t stream) {
  const bool bias = params.inputs.compact_bias != nullptr;
  if (params.inputs.shape.head_dim == 128) {
    bias ? launch<128, true>(params, stream) : launch<128, false>(params, stream);
  } else {
    bias ? launch<64, true>(params, stream) : launch<64, false>(params, stream);
  }
}

}  // namespace dga::kernels

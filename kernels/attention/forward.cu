#include <algorithm>

#include "kernels/attention/attention.h"
#include "kernels/attention/fwd_sm90.cuh"
#include "kernels/attention/sections.h"
#include "kernels/attention/tensor_map.h"
#include "kernels/common/check.h"

namespace dga::kernels {
namespace {

// An empty list is never visited, but its map must point somewhere.
TensorRef or_query(const TensorRef& tensor, int64_t rows, const TensorRef& query) { return rows > 0 ? tensor : query; }

template <int kHeadDim, bool kBias>
void launch(const ForwardParams& params, cudaStream_t stream) {
  using Tile = ForwardTile<kHeadDim>;
  const Shape& shape = params.shape;
  const auto list_map = [&](const TensorRef& tensor, int64_t rows) {
    return make_tensor_map(or_query(tensor, rows, params.query), shape.batch, std::max<int64_t>(rows, 1),
                           shape.kv_heads, kHeadDim, Tile::kBlockN);
  };
  ForwardArgs args{};
  args.query = make_tensor_map(params.query, shape.batch, shape.length, shape.heads, kHeadDim, 64);
  args.output = make_tensor_map(params.output, shape.batch, shape.length, shape.heads, kHeadDim, 64);
  args.compact_key = list_map(params.compact_key, shape.compact_length);
  args.compact_value = list_map(params.compact_value, shape.compact_length);
  args.second_key = list_map(params.second_key, shape.second_length);
  args.second_value = list_map(params.second_value, shape.second_length);
  if (kBias) {
    args.bias =
        make_bias_map(params.compact_bias, shape.batch, shape.kv_heads, shape.compact_length, params.bias_stride);
  }
  args.bounds = params.bounds;
  args.log_sum_exp = params.log_sum_exp;
  args.length = static_cast<int>(shape.length);
  args.heads = static_cast<int>(shape.heads);
  args.kv_heads = static_cast<int>(shape.kv_heads);
  args.query_tiles = static_cast<int>((shape.length + Tile::kBlockM - 1) / Tile::kBlockM);
  const int64_t group = shape.heads / shape.kv_heads;
  const int64_t bytes_per_head = 2 * (shape.compact_length + shape.second_length) * kHeadDim * 2 / group;
  args.heads_per_section = heads_per_section(shape.batch * shape.heads, group, bytes_per_head);
  args.scale_log2 = params.scale * 1.4426950408889634f;

  const int shared_bytes = static_cast<int>(sizeof(ForwardShared<kHeadDim>)) + 1024;
  const auto kernel = forward_kernel<kHeadDim, kBias>;
  DGA_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  const int64_t blocks = args.query_tiles * shape.heads * shape.batch;
  kernel<<<static_cast<unsigned>(blocks), Tile::kThreads, shared_bytes, stream>>>(args);
  DGA_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void forward(const ForwardParams& params, cudaStream_t stream) {
  const bool bias = params.compact_bias != nullptr;
  if (params.shape.head_dim == 128) {
    bias ? launch<128, true>(params, stream) : launch<128, false>(params, stream);
  } else {
    bias ? launch<64, true>(params, stream) : launch<64, false>(params, stream);
  }
}

}  // namespace dga::kernels

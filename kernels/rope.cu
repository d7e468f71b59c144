#include "kernels/common/bf16.cuh"
#include "kernels/common/check.h"
#include "kernels/rope.h"

// A thread keeps the angles of 8 pairs of columns and goes over the heads of its token with them.
namespace dga::kernels {
namespace {

constexpr int kMaxThreads = 256;

__device__ __forceinline__ Floats8 load_angles(const float* table) {
  const float4 low = __ldg(reinterpret_cast<const float4*>(table));
  const float4 high = __ldg(reinterpret_cast<const float4*>(table) + 1);
  return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}

template <RopeDirection kDirection>
__global__ void __launch_bounds__(kMaxThreads) rope_kernel(const __grid_constant__ RopeParams params) {
  const int half = static_cast<int>(params.head_dim / 2), chunks = half / 8;
  const int chunk = threadIdx.x % chunks, head_step = blockDim.x / chunks;
  const int64_t token = blockIdx.x;
  const int64_t position = token % params.length, batch = token / params.length;
  const int64_t angle = batch * params.table_batch_stride + position * params.head_dim + chunk * 8;
  const Floats8 cos1 = load_angles(params.cos + angle), cos2 = load_angles(params.cos + angle + half);
  const Floats8 sin1 = load_angles(params.sin + angle), sin2 = load_angles(params.sin + angle + half);
  const int query_heads = static_cast<int>(params.query.heads);
  const int heads = query_heads + static_cast<int>(params.key.heads);
#pragma unroll 2
  for (int i = threadIdx.x / chunks; i < heads; i += head_step) {
    const bool is_query = i < query_heads;
    const RopeTensor& tensor = is_query ? params.query : params.key;
    const int head = is_query ? i : i - query_heads;
    const auto* in = static_cast<const __nv_bfloat16*>(tensor.in) + token * tensor.token_stride +
                     head * tensor.head_stride + chunk * 8;
    auto* out = static_cast<__nv_bfloat16*>(tensor.out) + (token * tensor.heads + head) * params.head_dim + chunk * 8;
    const Floats8 x1 = unpack(*reinterpret_cast<const uint4*>(in));
    const Floats8 x2 = unpack(*reinterpret_cast<const uint4*>(in + half));
    Floats8 y1, y2;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if constexpr (kDirection == RopeDirection::forward) {
        y1.v[j] = fmaf(x1.v[j], cos1.v[j], -x2.v[j] * sin1.v[j]);
        y2.v[j] = fmaf(x2.v[j], cos2.v[j], x1.v[j] * sin2.v[j]);
      } else {
        y1.v[j] = fmaf(x1.v[j], cos1.v[j], x2.v[j] * sin2.v[j]);
        y2.v[j] = fmaf(x2.v[j], cos2.v[j], -x1.v[j] * sin1.v[j]);
      }
    }
    *reinterpret_cast<uint4*>(out) = pack(y1);
    *reinterpret_cast<uint4*>(out + half) = pack(y2);
  }
}

}  // namespace

bool rope_supports(int64_t head_dim) { return head_dim > 0 && head_dim % 16 == 0 && head_dim <= 512; }

void rope(const RopeParams& params, cudaStream_t stream) {
  const auto tokens = static_cast<unsigned>(params.batch * params.length);
  if (tokens == 0) return;
  const int chunks = static_cast<int>(params.head_dim / 16);
  const auto threads = static_cast<unsigned>(kMaxThreads / chunks * chunks);
  if (params.direction == RopeDirection::forward) {
    rope_kernel<RopeDirection::forward><<<tokens, threads, 0, stream>>>(params);
  } else {
    rope_kernel<RopeDirection::backward><<<tokens, threads, 0, stream>>>(params);
  }
  DGA_CUDA_CHECK(cudaGetLastError());
}

}  // namespace dga::kernels

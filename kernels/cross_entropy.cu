#include <limits>

#include "kernels/common/bf16.cuh"
#include "kernels/common/check.h"
#include "kernels/common/reduce.cuh"
#include "kernels/cross_entropy.h"

namespace dga::kernels {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// Eight logits of a row from column 8 * index on; those beyond the vocabulary are -infinity.
__device__ __forceinline__ Floats8 load_logits(const float* row, int64_t index, int64_t vocabulary) {
  const float4 low = reinterpret_cast<const float4*>(row)[2 * index];
  const float4 high = reinterpret_cast<const float4*>(row)[2 * index + 1];
  Floats8 logits = {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
  if (8 * index + 8 > vocabulary) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if (8 * index + j >= vocabulary) logits.v[j] = -kInfinity;
    }
  }
  return logits;
}

/// Maximum of some logits and the sum of exp(logit - maximum).
struct Softmax {
  float maximum = -kInfinity, sum = 0;

  /// `finite` stands in for a maximum of -infinity, of which nothing may be subtracted.
  static __device__ __forceinline__ float finite(float maximum) { return maximum == -kInfinity ? 0.0f : maximum; }

  __device__ __forceinline__ void add(const Floats8& logits) {
    float highest = maximum;
#pragma unroll
    for (int j = 0; j < 8; ++j) highest = fmaxf(highest, logits.v[j]);
    const float base = finite(highest);
    sum *= __expf(maximum - base);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += __expf(logits.v[j] - base);
    maximum = highest;
  }

  __device__ __forceinline__ void reduce_block() {
    __shared__ float maxima[kWarps], sums[kWarps];
    const int lane = threadIdx.x % 32;
    const float warp_maximum = warp_max(maximum);
    const float warp_total = warp_sum(sum * __expf(maximum - finite(warp_maximum)));
    if (lane == 0) maxima[threadIdx.x / 32] = warp_maximum;
    if (lane == 0) sums[threadIdx.x / 32] = warp_total;
    __syncthreads();
    const float other = lane < kWarps ? maxima[lane] : -kInfinity;
    maximum = warp_max(other);
    sum = warp_sum(lane < kWarps ? sums[lane] * __expf(other - finite(maximum)) : 0.0f);
  }
};

__device__ __forceinline__ void fill_row(uint4* gradient, int64_t vectors, uint4 value) {
  for (int64_t i = threadIdx.x; i < vectors; i += kThreads) gradient[i] = value;
}

__global__ void __launch_bounds__(kThreads) cross_entropy_kernel(const __grid_constant__ CrossEntropyParams params) {
  const int64_t token = blockIdx.x, vectors = (params.vocabulary + 7) / 8;
  const int64_t label = params.labels[token];
  uint4* gradient =
      params.gradient == nullptr
          ? nullptr
          : reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(params.gradient) + token * params.row_stride);
  const bool without = label == params.no_label, outside = label < 0 || label >= params.vocabulary;
  if (without || outside) {
    if (threadIdx.x == 0) {
      params.nll[token] = without ? 0.0f : kNan;
      params.log_sum_exp[token] = without ? 0.0f : kNan;
    }
    const uint32_t word = without ? 0 : 0x7fff7fff;  // two zeros or two NaN
    if (gradient != nullptr) fill_row(gradient, vectors, make_uint4(word, word, word, word));
    return;
  }
  const float* row = params.logits + token * params.row_stride;
  Softmax softmax;
#pragma unroll 2
  for (int64_t i = threadIdx.x; i < vectors; i += kThreads) softmax.add(load_logits(row, i, params.vocabulary));
  softmax.reduce_block();
  const float lse = softmax.maximum + logf(softmax.sum);
  if (threadIdx.x == 0) {
    params.nll[token] = lse - row[label];
    params.log_sum_exp[token] = lse;
  }
  if (gradient == nullptr) return;
  const float factor = fmaf(2.0f * params.z_loss, lse, 1.0f);
#pragma unroll 2
  for (int64_t i = threadIdx.x; i < vectors; i += kThreads) {
    Floats8 values = load_logits(row, i, params.vocabulary);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      values.v[j] = __expf(values.v[j] - lse) * factor - (8 * i + j == label ? 1.0f : 0.0f);
    }
    gradient[i] = pack(values);
  }
}

}  // namespace

void cross_entropy(const CrossEntropyParams& params, cudaStream_t stream) {
  if (params.tokens == 0) return;
  cross_entropy_kernel<<<static_cast<unsigned>(params.tokens), kThreads, 0, stream>>>(params);
  DGA_CUDA_CHECK(cudaGetLastError());
}

}  // namespace dga::kernels

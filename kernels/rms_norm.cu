#include <algorithm>
#include <type_traits>

#include "kernels/common/bf16.cuh"
#include "kernels/common/check.h"
#include "kernels/common/reduce.cuh"
#include "kernels/rms_norm.h"

// A block keeps its row in registers, kVectors vectors of 8 a thread, so that a row is read once.
namespace dga::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
/// Blocks of the backward pass, each with one partial sum of the weight's gradient: two a multiprocessor of an H100,
/// which is what the registers allow at N = 4096. A constant, since the order of the sum follows from it.
constexpr int64_t kBackwardBlocks = 264;
constexpr int kColumns = 32;  // of a block that adds the partial sums up

/// Vector i of this thread within a row of `count` vectors.
__device__ __forceinline__ int vector_index(int i) { return i * kThreads + static_cast<int>(threadIdx.x); }

template <int kVectors, bool kResidual>
__global__ void __launch_bounds__(kThreads) forward_kernel(const __grid_constant__ RmsNormForwardParams params) {
  __shared__ float shared[kWarps];
  const int count = static_cast<int>(params.width / 8);
  const int64_t row = blockIdx.x;
  const uint4* x = static_cast<const uint4*>(params.x) + row * count;
  const uint4* residual = static_cast<const uint4*>(params.residual) + (kResidual ? row * count : 0);
  uint4* sum = static_cast<uint4*>(params.sum) + (kResidual ? row * count : 0);
  uint4 values[kVectors], others[kVectors];
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int index = vector_index(i);
    values[i] = index < count ? x[index] : make_uint4(0, 0, 0, 0);
    if constexpr (kResidual) others[i] = index < count ? residual[index] : make_uint4(0, 0, 0, 0);
  }
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    Floats8 wide = unpack(values[i]);
    if constexpr (kResidual) {
      const Floats8 added = unpack(others[i]);
#pragma unroll
      for (int j = 0; j < 8; ++j) wide.v[j] += added.v[j];
      values[i] = pack(wide);
      wide = unpack(values[i]);  // the norm is that of the rounded sum
      if (vector_index(i) < count) sum[vector_index(i)] = values[i];
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) squares = fmaf(wide.v[j], wide.v[j], squares);
  }
  squares = block_sum<kThreads>(squares, shared);
  const float inverse = rsqrtf(squares / static_cast<float>(params.width) + params.eps);
  if (threadIdx.x == 0) params.inverse_rms[row] = inverse;

  uint4* normed = static_cast<uint4*>(params.normed) + row * count;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int index = vector_index(i);
    if (index >= count) continue;
    Floats8 out = unpack(values[i]);
    const Floats8 weight = unpack(__ldg(static_cast<const uint4*>(params.weight) + index));
#pragma unroll
    for (int j = 0; j < 8; ++j) out.v[j] = round_to_bf16(out.v[j] * inverse) * weight.v[j];
    normed[index] = pack(out);
  }
}

/// Rows blockIdx.x, blockIdx.x + gridDim.x, ...; with kWeight their part of the weight's gradient goes to partial sums
/// [gridDim.x, N].
template <int kVectors, bool kResidual, bool kWeight>
__global__ void __launch_bounds__(kThreads) backward_kernel(const __grid_constant__ RmsNormBackwardParams params) {
  __shared__ float shared[2][kWarps];
  const int count = static_cast<int>(params.width / 8);
  const float width_inverse = 1.0f / static_cast<float>(params.width);
  const uint4 zero = make_uint4(0, 0, 0, 0);
  uint4 weight[kVectors];
  Floats8 grad_weight[kVectors] = {};
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    weight[i] = vector_index(i) < count ? static_cast<const uint4*>(params.weight)[vector_index(i)] : zero;
  }
  int buffer = 0;
  for (int64_t row = blockIdx.x; row < params.rows; row += gridDim.x, buffer ^= 1) {
    const uint4* x = static_cast<const uint4*>(params.sum) + row * count;
    const uint4* dy = static_cast<const uint4*>(params.grad_normed) + row * count;
    const uint4* passed = static_cast<const uint4*>(params.grad_residual) + (kResidual ? row * count : 0);
    uint4 xs[kVectors], dys[kVectors], others[kVectors];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int index = vector_index(i);
      xs[i] = index < count ? x[index] : zero;
      dys[i] = index < count ? dy[index] : zero;
      if constexpr (kResidual) others[i] = index < count ? passed[index] : zero;
    }
    const float inverse = params.inverse_rms[row];
    float along = 0;  // sum of a * n
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const Floats8 n = unpack(xs[i]), d = unpack(dys[i]), w = unpack(weight[i]);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float product = d.v[j] * (n.v[j] * inverse);
        along = fmaf(product, w.v[j], along);
        if constexpr (kWeight) grad_weight[i].v[j] += product;
      }
    }
    // Two buffers: a warp that is a row ahead must not overwrite what a slower one still reads.
    along = block_sum<kThreads>(along, shared[buffer]) * width_inverse;
    uint4* out = static_cast<uint4*>(params.grad_sum) + row * count;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int index = vector_index(i);
      if (index >= count) continue;
      const Floats8 n = unpack(xs[i]), d = unpack(dys[i]), w = unpack(weight[i]);
      Floats8 result = {};
      if constexpr (kResidual) result = unpack(others[i]);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        result.v[j] = fmaf(fmaf(-n.v[j] * inverse, along, d.v[j] * w.v[j]), inverse, result.v[j]);
      }
      out[index] = pack(result);
    }
  }
  if constexpr (kWeight) {
    float* partial = static_cast<float*>(params.workspace) + static_cast<int64_t>(blockIdx.x) * params.width;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      if (vector_index(i) >= count) continue;
      float4* place = reinterpret_cast<float4*>(partial) + 2 * vector_index(i);
      const float* v = grad_weight[i].v;
      place[0] = make_float4(v[0], v[1], v[2], v[3]);
      place[1] = make_float4(v[4], v[5], v[6], v[7]);
    }
  }
}

/// Adds the partial sums up: a block takes 32 columns, a warp every kWarps-th partial sum.
__global__ void __launch_bounds__(kThreads)
    add_partials_kernel(const float* __restrict__ partials, float* __restrict__ total, int64_t width, int blocks) {
  __shared__ float shared[kWarps][kColumns];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns + lane;
  float sum = 0;
  if (column < width) {
#pragma unroll 8
    for (int i = warp; i < blocks; i += kWarps) sum += partials[i * width + column];
  }
  shared[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= width) return;
#pragma unroll
  for (int i = 1; i < kWarps; ++i) sum += shared[i][lane];
  total[column] = sum;
}

/// Calls launch(constant) with the least of 1, 2, 4 vectors a thread that holds a row.
template <typename Launch>
void with_vectors(int64_t width, const Launch& launch) {
  const int64_t vectors = (width / 8 + kThreads - 1) / kThreads;
  if (vectors <= 1) {
    launch(std::integral_constant<int, 1>());
  } else if (vectors <= 2) {
    launch(std::integral_constant<int, 2>());
  } else {
    launch(std::integral_constant<int, 4>());
  }
}

unsigned backward_blocks(int64_t rows) { return static_cast<unsigned>(std::min(rows, kBackwardBlocks)); }

}  // namespace

bool rms_norm_supports(int64_t width) { return width > 0 && width % 8 == 0 && width <= 4 * 8 * kThreads; }

void rms_norm_forward(const RmsNormForwardParams& params, cudaStream_t stream) {
  if (params.rows == 0) return;
  const auto blocks = static_cast<unsigned>(params.rows);
  with_vectors(params.width, [&](auto vectors) {
    constexpr int kVectors = decltype(vectors)::value;
    if (params.residual != nullptr) {
      forward_kernel<kVectors, true><<<blocks, kThreads, 0, stream>>>(params);
    } else {
      forward_kernel<kVectors, false><<<blocks, kThreads, 0, stream>>>(params);
    }
    DGA_CUDA_CHECK(cudaGetLastError());
  });
}

size_t rms_norm_backward_workspace_bytes(int64_t rows, int64_t width) {
  return static_cast<size_t>(backward_blocks(rows)) * static_cast<size_t>(width) * sizeof(float);
}

void rms_norm_backward(const RmsNormBackwardParams& params, cudaStream_t stream) {
  if (params.rows == 0) {
    if (params.grad_weight == nullptr) return;
    DGA_CUDA_CHECK(cudaMemsetAsync(params.grad_weight, 0, params.width * sizeof(float), stream));
    return;
  }
  const unsigned blocks = backward_blocks(params.rows);
  with_vectors(params.width, [&](auto vectors) {
    constexpr int kVectors = decltype(vectors)::value;
    const bool residual = params.grad_residual != nullptr, weight = params.grad_weight != nullptr;
    const auto kernel =
        residual ? (weight ? backward_kernel<kVectors, true, true> : backward_kernel<kVectors, true, false>)
                 : (weight ? backward_kernel<kVectors, false, true> : backward_kernel<kVectors, false, false>);
    kernel<<<blocks, kThreads, 0, stream>>>(params);
    DGA_CUDA_CHECK(cudaGetLastError());
  });
  if (params.grad_weight == nullptr) return;
  const auto columns = static_cast<unsigned>((params.width + kColumns - 1) / kColumns);
  add_partials_kernel<<<columns, kThreads, 0, stream>>>(static_cast<const float*>(params.workspace), params.grad_weight,
                                                        params.width, static_cast<int>(blocks));
  DGA_CUDA_CHECK(cudaGetLastError());
}

}  // namespace dga::kernels

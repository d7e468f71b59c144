#include "kernels/adamw.h"
#include "kernels/common/check.h"
#include "kernels/common/eight.cuh"
#include "kernels/common/reduce.cuh"
#include "kernels/number_codes.h"

// Bound by memory: a number moves 2 x (4 + 8) + 4 bytes with fp32 weights, gradients and moments, 2 x (4 + 2) + 2 with
// bf16 weights and gradients and 8-bit moments. Eight numbers a thread, so a warp holds exactly one block of 8-bit
// moments and finds its scale by shuffles.
namespace dga::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 8;
static_assert(32 * kPerThread == kMomentBlock);

/// The random bits of number i of a thread's eight.
struct RoundingBits {
  uint64_t words[4];  // one for each two numbers

  __device__ RoundingBits(uint64_t key, int64_t first) {
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = rounding_bits(key, first / 2 + i);
  }
  __device__ uint32_t first_moment(int i) const { return words[i / 2] >> (16 * (i % 2)) & 0xffffu; }
  __device__ uint32_t second_moment(int i) const { return words[i / 2] >> (32 + 16 * (i % 2)) & 0xffffu; }
};

__device__ __forceinline__ float warp_largest(const float (&x)[8]) {
  float largest = 0.0f;
#pragma unroll
  for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(x[i]));
  return warp_max(largest);
}

template <MomentType kType>
struct Moments;

template <>
struct Moments<MomentType::fp32> {
  static __device__ void load(const AdamWParams& p, int64_t at, float (&m)[8], float (&v)[8]) {
    load_eight(static_cast<const float*>(p.exp_avg) + at, m);
    load_eight(static_cast<const float*>(p.exp_avg_sq) + at, v);
  }
  static __device__ void store(const AdamWParams& p, int64_t at, const float (&m)[8], const float (&v)[8]) {
    store_eight(static_cast<float*>(p.exp_avg) + at, m);
    store_eight(static_cast<float*>(p.exp_avg_sq) + at, v);
  }
};

template <>
struct Moments<MomentType::bf16> {
  static __device__ void load(const AdamWParams& p, int64_t at, float (&m)[8], float (&v)[8]) {
    load_eight(static_cast<const __nv_bfloat16*>(p.exp_avg) + at, m);
    load_eight(static_cast<const __nv_bfloat16*>(p.exp_avg_sq) + at, v);
  }
  static __device__ void store(const AdamWParams& p, int64_t at, const float (&m)[8], const float (&v)[8]) {
    const RoundingBits random(p.rounding_key, p.first + at);
    uint16_t first[8], second[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      first[i] = bf16_stochastic(m[i], random.first_moment(i));
      second[i] = bf16_stochastic(v[i], random.second_moment(i));
    }
    store_eight(static_cast<uint16_t*>(p.exp_avg) + at, first);
    store_eight(static_cast<uint16_t*>(p.exp_avg_sq) + at, second);
  }
};

template <>
struct Moments<MomentType::int8> {
  static __device__ void load(const AdamWParams& p, int64_t at, float (&m)[8], float (&v)[8]) {
    const float first_scale = p.exp_avg_scale[at / kMomentBlock], second_scale = p.exp_avg_sq_scale[at / kMomentBlock];
    uint8_t first[8], second[8];
    load_eight(static_cast<const uint8_t*>(p.exp_avg) + at, first);
    load_eight(static_cast<const uint8_t*>(p.exp_avg_sq) + at, second);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      m[i] = first_moment_value(static_cast<int8_t>(first[i]), first_scale);
      v[i] = second_moment_value(second[i], second_scale);
    }
  }
  static __device__ void store(const AdamWParams& p, int64_t at, const float (&m)[8], const float (&v)[8]) {
    const RoundingBits random(p.rounding_key, p.first + at);
    const float first_scale = warp_largest(m), second_scale = warp_largest(v);
    const float first_log = log2_of(first_scale), second_log = log2_of(second_scale);
    uint8_t first[8], second[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      first[i] = static_cast<uint8_t>(first_moment_code(m[i], first_scale, first_log, random.first_moment(i)));
      second[i] = second_moment_code(v[i], second_scale, second_log, random.second_moment(i));
    }
    store_eight(static_cast<uint8_t*>(p.exp_avg) + at, first);
    store_eight(static_cast<uint8_t*>(p.exp_avg_sq) + at, second);
    if (threadIdx.x % 32 != 0) return;
    p.exp_avg_scale[at / kMomentBlock] = first_scale;
    p.exp_avg_sq_scale[at / kMomentBlock] = second_scale;
  }
};

/// fp32 weights, or bf16 ones with the missing bits of their masters.
template <bool kSplit>
__device__ __forceinline__ void load_weights(const AdamWParams& p, int64_t at, float (&w)[8]) {
  if constexpr (kSplit) {
    uint16_t high[8], low[8];
    load_eight(static_cast<const uint16_t*>(p.weight) + at, high);
    load_eight(reinterpret_cast<const uint16_t*>(p.weight_low) + at, low);
#pragma unroll
    for (int i = 0; i < 8; ++i) w[i] = join_master(high[i], static_cast<int16_t>(low[i]));
  } else {
    load_eight(static_cast<const float*>(p.weight) + at, w);
  }
}

template <bool kSplit>
__device__ __forceinline__ void store_weights(const AdamWParams& p, int64_t at, const float (&w)[8]) {
  if constexpr (kSplit) {
    uint16_t high[8], low[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const SplitMaster split = split_master(w[i]);
      high[i] = split.high;
      low[i] = static_cast<uint16_t>(split.low);
    }
    store_eight(static_cast<uint16_t*>(p.weight) + at, high);
    store_eight(reinterpret_cast<uint16_t*>(p.weight_low) + at, low);
  } else {
    store_eight(static_cast<float*>(p.weight) + at, w);
  }
}

/// Every operation rounds as IEEE says, in this order, so that the result can be told bit for bit.
__device__ __forceinline__ void update(const AdamWParams& p, float g, float& w, float& m, float& v) {
  w = __fmaf_rn(-p.decay, w, w);
  m = __fmaf_rn(p.one_less_beta1, __fsub_rn(g, m), m);
  v = __fmaf_rn(p.one_less_beta2, __fmul_rn(g, g), __fmul_rn(p.beta2, v));
  const float root = __fmaf_rn(__fsqrt_rn(v), p.inverse_root_c2, p.epsilon);
  w = __fmaf_rn(-p.step_size, __fdiv_rn(m, root), w);
}

template <bool kSplit, class Gradient, MomentType kMoments>
__global__ void __launch_bounds__(kThreads) adamw_kernel(const __grid_constant__ AdamWParams p) {
  if (*p.stop != 0) return;
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kPerThread;
  if (at >= p.count) return;  // whole warps, since count is a multiple of 256
  const float factor = *p.gradient_factor;
  float g[8], w[8], m[8], v[8];
  load_eight(static_cast<const Gradient*>(p.gradient) + at, g);
  load_weights<kSplit>(p, at, w);
  Moments<kMoments>::load(p, at, m, v);
#pragma unroll
  for (int i = 0; i < 8; ++i) update(p, __fmul_rn(g[i], factor), w[i], m[i], v[i]);
  store_weights<kSplit>(p, at, w);
  Moments<kMoments>::store(p, at, m, v);
}

template <bool kSplit, class Gradient, MomentType kMoments>
void launch(const AdamWParams& params, cudaStream_t stream) {
  constexpr int64_t kPerBlock = kThreads * kPerThread;
  const auto blocks = static_cast<unsigned>((params.count + kPerBlock - 1) / kPerBlock);
  adamw_kernel<kSplit, Gradient, kMoments><<<blocks, kThreads, 0, stream>>>(params);
  DGA_CUDA_CHECK(cudaGetLastError());
}

template <bool kSplit, class Gradient>
void launch_by_moments(const AdamWParams& params, cudaStream_t stream) {
  switch (params.moments) {
    case MomentType::fp32:
      return launch<kSplit, Gradient, MomentType::fp32>(params, stream);
    case MomentType::bf16:
      return launch<kSplit, Gradient, MomentType::bf16>(params, stream);
    case MomentType::int8:
      return launch<kSplit, Gradient, MomentType::int8>(params, stream);
  }
}

}  // namespace

void adamw(const AdamWParams& params, cudaStream_t stream) {
  if (params.count == 0) return;
  if (params.weight_low == nullptr) return launch_by_moments<false, float>(params, stream);
  if (params.gradient_type == GradientType::fp32) return launch_by_moments<true, float>(params, stream);
  launch_by_moments<true, __nv_bfloat16>(params, stream);
}

}  // namespace dga::kernels

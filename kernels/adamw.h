#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace dga::kernels {

enum class GradientType { fp32, bf16 };
enum class MomentType { fp32, bf16, int8 };

/// One update of a contiguous range of numbers (Loshchilov and Hutter 2019, Algorithm 2, in PyTorch's form):
///   w -= lr decay w;  m += (1 - b1)(g - m);  v = b2 v + (1 - b2) g^2;  w -= lr / c1 * m / (sqrt(v) / sqrt(c2) + eps)
/// with g = gradient * *gradient_factor, in fp32 throughout. Pointers are to the range's first number and 16-byte
/// aligned. Weights are fp32, or bf16 with the master's missing bits (number_codes.h).
struct AdamWParams {
  int64_t count = 0;               // numbers, a multiple of 256
  int64_t first = 0;               // place of the range's first number in the flat space, a multiple of 256
  void* weight = nullptr;          // fp32, or bf16 where weight_low is given
  int16_t* weight_low = nullptr;   // the missing bits; null for fp32 weights
  const void* gradient = nullptr;  // of gradient_type
  void *exp_avg = nullptr, *exp_avg_sq = nullptr;               // m and v, of `moments`
  float *exp_avg_scale = nullptr, *exp_avg_sq_scale = nullptr;  // one for each 256 numbers; int8 alone
  GradientType gradient_type = GradientType::fp32;
  MomentType moments = MomentType::fp32;
  const float* gradient_factor = nullptr;  // on the device
  const int32_t* stop = nullptr;           // on the device; where it is not 0 nothing changes
  float decay = 0;                         // learning rate * weight decay
  float beta1 = 0, beta2 = 0;
  float one_less_beta1 = 0, one_less_beta2 = 0;  // rounded once from double
  float epsilon = 0;
  float step_size = 0;        // learning rate / (1 - beta1^updates)
  float inverse_root_c2 = 0;  // 1 / sqrt(1 - beta2^updates)
  uint64_t rounding_key = 0;  // of this update's stochastic rounding
};

/// Reads and writes each number once. Throws std::runtime_error on a launch error.
void adamw(const AdamWParams& params, cudaStream_t stream);

}  // namespace dga::kernels

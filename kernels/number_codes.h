#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

// How the optimizer's numbers are stored below fp32. Plain functions for host and device, so that the CPU path and the
// kernel mean the same by the same bits.
#ifdef __CUDACC__
#define DGA_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define DGA_HOST_DEVICE inline
#endif

namespace dga::kernels {

DGA_HOST_DEVICE uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

DGA_HOST_DEVICE float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

/// An fp32 master weight as the bf16 weight that the model sees and a signed 16-bit correction to its bits.
struct SplitMaster {
  uint16_t high = 0;
  int16_t low = 0;
};

/// `high` is the master rounded to nearest, ties away from zero. To even, the usual rule, would leave one bit open: an
/// even weight with low = 0x8000 could have come from above or below. With ties away the master is (high << 16) + low
/// for every bit pattern. NaNs become the quiet one, since rounding up could carry their mantissa into the sign.
DGA_HOST_DEVICE SplitMaster split_master(float master) {
  const uint32_t bits = master == master ? bits_of(master) : 0x7fc00000u;
  return {static_cast<uint16_t>((bits + 0x8000u) >> 16), static_cast<int16_t>(bits & 0xffffu)};
}

DGA_HOST_DEVICE float join_master(uint16_t high, int16_t low) {
  return float_of((static_cast<uint32_t>(high) << 16) + static_cast<uint32_t>(static_cast<int32_t>(low)));
}

DGA_HOST_DEVICE float bf16_value(uint16_t bits) { return float_of(static_cast<uint32_t>(bits) << 16); }

/// bf16 by stochastic rounding with 16 random bits: unbiased, and exact where the value is a bf16.
DGA_HOST_DEVICE uint16_t bf16_stochastic(float value, uint32_t random16) {
  return static_cast<uint16_t>((bits_of(value) + random16) >> 16);
}

// 8-bit moments: blocks of 256 numbers, one fp32 scale a block, the largest magnitude in it. The code is logarithmic,
// twelve steps an octave: |x| = scale * 2^((c - levels) / 12) for c = 1..levels, 0 for c = 0. A linear code would lose
// the numbers far below the block's largest, and a second moment that is rounded to zero makes its weight jump. The
// first moment has a sign and 127 levels (10.5 octaves), the second 255 (21 octaves, a ratio of 1500 between
// gradients). Rounding is stochastic between neighbouring values, so that changes far below a step (5.9 %) add up over
// updates; below the smallest value a first moment falls to zero or up to it, a second moment always goes up to it (a
// smaller step of the weight, never a larger one).
constexpr int kMomentBlock = 256;
constexpr int kFirstMomentLevels = 127;
constexpr int kSecondMomentLevels = 255;
constexpr float kCodesPerOctave = 12.0f;

/// 2^x and log2 x; on the GPU by the special-function unit, to 2^-22, which moves no code but at its very edge.
DGA_HOST_DEVICE float exp2_of(float x) {
#ifdef __CUDA_ARCH__
  float result;
  asm("ex2.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return std::exp2(x);
#endif
}
DGA_HOST_DEVICE float log2_of(float x) {
#ifdef __CUDA_ARCH__
  float result;
  asm("lg2.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return std::log2(x);
#endif
}

/// The magnitude of code `code` of `levels`.
DGA_HOST_DEVICE float code_value(int code, int levels, float scale) {
  return code == 0 ? 0.0f : scale * exp2_of(static_cast<float>(code - levels) * (1.0f / kCodesPerOctave));
}

/// The code of a magnitude <= scale, rounded stochastically with 16 random bits; `log2_scale` = log2_of(scale). A
/// magnitude between zero and code 1 takes either.
DGA_HOST_DEVICE int code_of(float magnitude, int levels, float scale, float log2_scale, uint32_t random16) {
  if (magnitude == 0.0f) return 0;
  const float position = (log2_of(magnitude) - log2_scale) * kCodesPerOctave + static_cast<float>(levels);
  const int lower = position < 1.0f                         ? 0
                    : position < static_cast<float>(levels) ? static_cast<int>(position)
                                                            : levels - 1;
  constexpr float kStep = 1.0594630943592953f;  // 2^(1/12)
  const float below = code_value(lower, levels, scale);
  const float above = lower == 0 ? code_value(1, levels, scale) : below * kStep;
  const float threshold = (static_cast<float>(random16) + 0.5f) * (1.0f / 65536.0f);
  return magnitude - below > threshold * (above - below) ? lower + 1 : lower;
}

DGA_HOST_DEVICE int8_t first_moment_code(float value, float scale, float log2_scale, uint32_t random16) {
  const int code = code_of(fabsf(value), kFirstMomentLevels, scale, log2_scale, random16);
  return static_cast<int8_t>(value < 0.0f ? -code : code);
}

DGA_HOST_DEVICE float first_moment_value(int8_t code, float scale) {
  const float magnitude = code_value(code < 0 ? -code : code, kFirstMomentLevels, scale);
  return code < 0 ? -magnitude : magnitude;
}

DGA_HOST_DEVICE uint8_t second_moment_code(float value, float scale, float log2_scale, uint32_t random16) {
  const int code = code_of(value, kSecondMomentLevels, scale, log2_scale, random16);
  return static_cast<uint8_t>(code == 0 && value > 0.0f ? 1 : code);
}

DGA_HOST_DEVICE float second_moment_value(uint8_t code, float scale) {
  return code_value(code, kSecondMomentLevels, scale);
}

/// Four draws of 16 bits for the numbers 2 pair and 2 pair + 1 of the flat space: the first moments of both, then the
/// second moments. SplitMix64 (Steele, Lea, Flood 2014) of key and counter alone, so a resumed run draws the same.
DGA_HOST_DEVICE uint64_t rounding_bits(uint64_t key, int64_t pair) {
  uint64_t z = key + (static_cast<uint64_t>(pair) + 1) * 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

}  // namespace dga::kernels

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

// bf16 on the host, written out: the type's bits, rounding to nearest even, and what one rounding may err.
namespace dga::kernels::testing {

inline double from_bf16(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &word, sizeof(value));
  return value;
}

inline uint16_t to_bf16(double value) {
  const float single = static_cast<float>(value);
  uint32_t word;
  std::memcpy(&word, &single, sizeof(word));
  word += 0x7fff + (word >> 16 & 1);
  return static_cast<uint16_t>(word >> 16);
}

/// Half a unit in the last of bf16's 8 significant bits.
inline double bf16_half_ulp(double value) {
  if (value == 0) return 0;
  return std::ldexp(1.0, std::ilogb(value) - 8);
}

}  // namespace dga::kernels::testing

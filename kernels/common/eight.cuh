#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/common/bf16.cuh"

// Eight neighbouring numbers a thread, in 16-byte accesses. Pointers are 16-byte aligned (8-byte for one-byte numbers).
namespace dga::kernels {

__device__ __forceinline__ void load_eight(const float* from, float (&to)[8]) {
  const float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
  to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
  to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}

__device__ __forceinline__ void store_eight(float* to, const float (&from)[8]) {
  reinterpret_cast<float4*>(to)[0] = make_float4(from[0], from[1], from[2], from[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(from[4], from[5], from[6], from[7]);
}

__device__ __forceinline__ void load_eight(const uint16_t* from, uint16_t (&to)[8]) {
  const uint4 words = *reinterpret_cast<const uint4*>(from);
  const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = static_cast<uint16_t>(pairs[i]);
    to[2 * i + 1] = static_cast<uint16_t>(pairs[i] >> 16);
  }
}

__device__ __forceinline__ void store_eight(uint16_t* to, const uint16_t (&from)[8]) {
  uint32_t pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) pairs[i] = from[2 * i] | static_cast<uint32_t>(from[2 * i + 1]) << 16;
  *reinterpret_cast<uint4*>(to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

__device__ __forceinline__ void load_eight(const uint8_t* from, uint8_t (&to)[8]) {
  const uint2 words = *reinterpret_cast<const uint2*>(from);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[i] = static_cast<uint8_t>(words.x >> (8 * i));
    to[4 + i] = static_cast<uint8_t>(words.y >> (8 * i));
  }
}

__device__ __forceinline__ void store_eight(uint8_t* to, const uint8_t (&from)[8]) {
  uint32_t words[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < 8; ++i) words[i / 4] |= static_cast<uint32_t>(from[i]) << (8 * (i % 4));
  *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
}

/// bf16 numbers as fp32.
__device__ __forceinline__ void load_eight(const __nv_bfloat16* from, float (&to)[8]) {
  const Floats8 values = unpack(*reinterpret_cast<const uint4*>(from));
#pragma unroll
  for (int i = 0; i < 8; ++i) to[i] = values.v[i];
}

}  // namespace dga::kernels

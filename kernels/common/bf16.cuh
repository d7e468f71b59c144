#pragma once

#include <cuda_bf16.h>

#include <cstdint>

// bf16 in pairs, as operands of the tensor cores take them, and eight at a time, 16 bytes: the widest load of a thread.
namespace dga::kernels {

struct Floats8 {
  float v[8];
};

__device__ __forceinline__ Floats8 unpack(const uint4& packed) {
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
  Floats8 out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out.v[2 * i] = __uint_as_float(words[i] << 16);
    out.v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
  return out;
}

__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ __forceinline__ uint4 pack(const Floats8& values) {
  return make_uint4(pack_pair(values.v[0], values.v[1]), pack_pair(values.v[2], values.v[3]),
                    pack_pair(values.v[4], values.v[5]), pack_pair(values.v[6], values.v[7]));
}

__device__ __forceinline__ float round_to_bf16(float value) { return __bfloat162float(__float2bfloat16_rn(value)); }

}  // namespace dga::kernels

#include <cuda_runtime_api.h>

#include <sstream>

#include "kernels/attention/attention.h"
#include "kernels/common/check.h"

namespace dga::kernels {
namespace {

constexpr int64_t kMaxRows = int64_t{1} << 30;  // row numbers and bounds are 32-bit

std::string shape_obstacle(const Shape& shape) {
  std::ostringstream reason;
  if (shape.head_dim != 64 && shape.head_dim != 128) {
    reason << "the attention kernels are compiled for head dims 64 and 128, not " << shape.head_dim;
  } else if (shape.kv_heads < 1 || shape.heads % shape.kv_heads != 0) {
    reason << shape.heads << " query heads are no multiple of " << shape.kv_heads << " KV heads";
  } else if (shape.batch < 1 || shape.length < 1) {
    reason << "there are no queries: batch " << shape.batch << ", length " << shape.length;
  } else if (shape.length > kMaxRows || shape.compact_length > kMaxRows || shape.second_length > kMaxRows) {
    reason << "sequences of more than " << kMaxRows << " tokens are not supported";
  }
  return reason.str();
}

}  // namespace

std::string supports(const Shape& shape) {
  const std::string reason = shape_obstacle(shape);
  if (!reason.empty()) return reason;
  int device = 0, major = 0, minor = 0;
  DGA_CUDA_CHECK(cudaGetDevice(&device));
  DGA_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  DGA_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  if (major == 9 && minor == 0) return "";
  std::ostringstream text;
  text << "the attention kernels need a Hopper GPU (compute capability 9.0); this one has " << major << "." << minor;
  return text.str();
}

}  // namespace dga::kernels

#include "dist/reduce_parts.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "util/error.h"

namespace dga {
namespace {

/// Numbers that are combined at a time, so that they stay in the cache over all ranks.
constexpr int64_t kBlock = 4096;

template <class Wide>
Wide larger(Wide a, Wide b) {
  return a != a || a > b ? a : b;  // a NaN is unequal to itself; b, where it is one, is not smaller than a
}

template <class T, class Wide, class Out = T>
void combine(const at::Tensor& parts, const at::Tensor& output, Reduction reduction) {
  const int64_t ranks = parts.size(0), count = parts.size(1);
  const T* from = static_cast<const T*>(parts.data_ptr());
  Out* to = static_cast<Out*>(output.data_ptr());
  std::vector<Wide> block(kBlock);
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t size = std::min(kBlock, count - begin);
    for (int64_t i = 0; i < size; ++i) block[i] = static_cast<Wide>(from[begin + i]);
    for (int64_t rank = 1; rank < ranks; ++rank) {
      const T* part = from + rank * count + begin;
      if (reduction == Reduction::sum) {
        for (int64_t i = 0; i < size; ++i) block[i] += static_cast<Wide>(part[i]);
      } else {
        for (int64_t i = 0; i < size; ++i) block[i] = larger(block[i], static_cast<Wide>(part[i]));
      }
    }
    for (int64_t i = 0; i < size; ++i) to[begin + i] = static_cast<Out>(block[i]);
  }
}

}  // namespace

void reduce_parts(const at::Tensor& parts, const at::Tensor& output, Reduction reduction) {
  if (parts.scalar_type() == at::kBFloat16 && output.scalar_type() == at::kFloat) {
    return combine<at::BFloat16, float, float>(parts, output, reduction);
  }
  switch (output.scalar_type()) {
    case at::kFloat:
      return combine<float, float>(parts, output, reduction);
    case at::kDouble:
      return combine<double, double>(parts, output, reduction);
    case at::kBFloat16:
      return combine<at::BFloat16, float>(parts, output, reduction);
    case at::kInt:
      return combine<int32_t, int32_t>(parts, output, reduction);
    case at::kLong:
      return combine<int64_t, int64_t>(parts, output, reduction);
    default:
      fail(ExitCode::failure, "collectives take fp32, fp64, bf16, int32 and int64, not ", output.dtype().name());
  }
}

}  // namespace dga

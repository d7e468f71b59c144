#include "ops/rope.h"

#include <ATen/ATen.h>

#include "ops/compute_type.h"
#include "ops/row_kernels.h"
#include "util/error.h"

namespace dga {
namespace {

// y1 = x1 cos1 - x2 sin1, y2 = x2 cos2 + x1 sin2; backward the transpose: y1 = x1 cos1 + x2 sin2, y2 = x2 cos2 - x1
// sin1.
at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, Rotation rotation) {
  const at::ScalarType type = compute_type(x.scalar_type());
  const int64_t half = x.size(-1) / 2;
  const at::Tensor wide = x.to(type);
  const at::Tensor c = cos.to(type).unsqueeze(2), s = sin.to(type).unsqueeze(2);  // [B or 1, L, 1, D]
  at::Tensor y = wide.mul(c);
  const at::Tensor x1 = wide.narrow(-1, 0, half), x2 = wide.narrow(-1, half, half);
  const at::Tensor s1 = s.narrow(-1, 0, half), s2 = s.narrow(-1, half, half);
  at::Tensor y1 = y.narrow(-1, 0, half), y2 = y.narrow(-1, half, half);
  if (rotation == Rotation::forward) {
    y1.addcmul_(x2, s1, -1);
    y2.addcmul_(x1, s2);
  } else {
    y1.addcmul_(x2, s2);
    y2.addcmul_(x1, s1, -1);
  }
  return y.to(x.scalar_type());
}

void check_rope(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  DGA_CHECK(x.dim() == 4 && x.size(3) % 2 == 0, "rope: x must be [B, L, H, D] with an even D, got ", x.sizes());
  DGA_CHECK(cos.dim() == 3 && cos.sizes() == sin.sizes() && (cos.size(0) == 1 || cos.size(0) == x.size(0)) &&
                cos.size(1) == x.size(1) && cos.size(2) == x.size(3),
            "rope: cos ", cos.sizes(), " and sin ", sin.sizes(), " do not fit x ", x.sizes());
}

}  // namespace

QueryKey apply_rope(QueryKey x, const at::Tensor& cos, const at::Tensor& sin) {
  check_rope(x.query, cos, sin);
  check_rope(x.key, cos, sin);
  if (row_kernels::take_rope(x.query)) {
    const auto in_place = [](const at::Tensor& t) { return t.is_contiguous() ? t : at::empty(t.sizes(), t.options()); };
    return row_kernels::rope(x, {in_place(x.query), in_place(x.key)}, cos, sin, Rotation::forward);
  }
  return {rotate(x.query, cos, sin, Rotation::forward), rotate(x.key, cos, sin, Rotation::forward)};
}

QueryKey rope_backward(const QueryKey& gradients, const at::Tensor& cos, const at::Tensor& sin) {
  if (row_kernels::take_rope(gradients.query)) {
    const auto fresh = [](const at::Tensor& t) { return at::empty(t.sizes(), t.options()); };
    return row_kernels::rope(gradients, {fresh(gradients.query), fresh(gradients.key)}, cos, sin, Rotation::backward);
  }
  return {rotate(gradients.query, cos, sin, Rotation::backward), rotate(gradients.key, cos, sin, Rotation::backward)};
}

}  // namespace dga

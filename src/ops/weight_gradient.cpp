#include "ops/weight_gradient.h"

#include <ATen/ATen.h>

#include "ops/compute_type.h"

namespace dga {

void WeightGradient::add(const at::Tensor& dy, const at::Tensor& x) {
  const at::ScalarType wide = compute_type(x.scalar_type());
  if (parts_ == 1 || x.scalar_type() == wide) {
    sum_ = sum_.defined() ? sum_.addmm_(dy.t(), x) : at::mm(dy.t(), x);
    return;
  }
  if (x.is_cpu()) {  // which has no product of bf16 matrices with an fp32 result
    const at::Tensor a = dy.t().to(wide), b = x.to(wide);
    sum_ = sum_.defined() ? sum_.addmm_(a, b) : at::mm(a, b);
  } else if (sum_.defined()) {
    at::addmm_out(sum_, sum_, dy.t(), x, wide);
  } else {
    sum_ = at::mm(dy.t(), x, wide);
  }
}

}  // namespace dga

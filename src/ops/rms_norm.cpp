#include "ops/rms_norm.h"

#include <ATen/ATen.h>
#include <torch/autograd.h>

#include "ops/compute_type.h"
#include "util/error.h"

namespace dga {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, double eps) {
    const int64_t width = x.size(-1);
    const at::Tensor rows = x.reshape({-1, width}).to(compute_type(x.scalar_type()));
    const at::Tensor mean_square = at::linalg_vector_norm(rows, 2, {-1}, true).square_().div_(width);  // [R, 1]
    const at::Tensor inverse = mean_square.add_(eps).rsqrt_();
    context->save_for_backward({x, weight, inverse});
    at::Tensor y = rows.mul(inverse).to(x.scalar_type());
    return y.mul_(weight).view(x.sizes());
  }

  // With n = x / rms and a = dy * weight: dx = (a - n * mean(a * n)) / rms, dweight = sum of dy * n over the rows.
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &inverse = saved[2];
    const int64_t width = x.size(-1);
    const at::ScalarType type = compute_type(x.scalar_type());
    const at::Tensor rows = x.reshape({-1, width}).to(type);
    const at::Tensor dy = gradients[0].reshape({-1, width}).to(type);
    const at::Tensor w = weight.to(type);
    const at::Tensor product = dy.mul(rows);
    at::Tensor dweight, dx;
    if (context->needs_input_grad(1)) {
      dweight = product.t().mv(inverse.squeeze(1)).to(weight.scalar_type());
    }
    if (context->needs_input_grad(0)) {
      const at::Tensor along = product.mv(w).unsqueeze(1).mul_(inverse.pow(3)).div_(width);  // [R, 1]
      dx = dy.mul(w).mul_(inverse).addcmul_(rows, along, -1).to(x.scalar_type()).view(x.sizes());
    }
    return {dx, dweight, at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  DGA_CHECK(x.dim() >= 1 && weight.dim() == 1 && weight.size(0) == x.size(-1), "rms_norm: weight ", weight.sizes(),
            " does not fit x ", x.sizes());
  DGA_CHECK(x.scalar_type() == weight.scalar_type(), "rms_norm: x is ", x.scalar_type(), " and weight is ",
            weight.scalar_type());
  return RmsNorm::apply(x, weight, eps);
}

}  // namespace dga

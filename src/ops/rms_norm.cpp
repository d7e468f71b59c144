#include "ops/rms_norm.h"

#include <ATen/ATen.h>
#include <torch/autograd.h>

#include "ops/compute_type.h"
#include "ops/row_kernels.h"
#include "util/error.h"

namespace dga {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor scale_rows(const at::Tensor& wide_rows, const at::Tensor& inverse_rms, const at::Tensor& weight) {
  at::Tensor y = wide_rows.mul(inverse_rms.unsqueeze(1)).to(weight.scalar_type());
  return y.mul_(weight);
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, double eps) {
    const AddedNorm norm = add_rms_norm(x.reshape({-1, x.size(-1)}), {}, weight, eps);
    context->save_for_backward({x, weight, norm.inverse_rms});
    return norm.normed.view(x.sizes());
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    NormBackward given;
    given.grad_normed = gradients[0].reshape({-1, x.size(-1)});
    given.sum = x.reshape({-1, x.size(-1)});
    given.inverse_rms = saved[2];
    given.wants_weight = context->needs_input_grad(1);
    const NormGradients grads = rms_norm_backward(given, weight);
    return {grads.sum.view(x.sizes()), grads.weight.defined() ? grads.weight.to(weight.scalar_type()) : grads.weight,
            at::Tensor()};
  }
};

void check_norm(const at::Tensor& x, const at::Tensor& weight) {
  DGA_CHECK(x.dim() >= 1 && weight.dim() == 1 && weight.size(0) == x.size(-1), "rms_norm: weight ", weight.sizes(),
            " does not fit x ", x.sizes());
  DGA_CHECK(x.scalar_type() == weight.scalar_type(), "rms_norm: x is ", x.scalar_type(), " and weight is ",
            weight.scalar_type());
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  check_norm(x, weight);
  return RmsNorm::apply(x, weight, eps);
}

AddedNorm add_rms_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight, double eps,
                       const at::Tensor& sum) {
  check_norm(x, weight);
  if (row_kernels::take_norm(x)) return row_kernels::add_norm(x, residual, weight, eps, sum);
  at::Tensor added = residual.defined() ? sum : x;
  if (!added.defined()) added = at::empty_like(x);
  if (residual.defined()) at::add_out(added, x, residual);
  const at::Tensor rows = added.to(compute_type(x.scalar_type()));
  const at::Tensor mean_square = at::linalg_vector_norm(rows, 2, {-1}).square_().div_(x.size(-1));  // [R]
  const at::Tensor inverse = mean_square.add_(eps).rsqrt_();
  return {added, scale_rows(rows, inverse, weight), inverse};
}

at::Tensor normed_again(const at::Tensor& sum, const at::Tensor& inverse_rms, const at::Tensor& weight, double eps) {
  if (row_kernels::take_norm(sum)) return row_kernels::add_norm(sum, {}, weight, eps, {}).normed;
  return scale_rows(sum.to(inverse_rms.scalar_type()), inverse_rms, weight);
}

// With n = sum / rms and a = dy * weight: dsum = (a - n * mean(a * n)) / rms, dweight = sum of dy * n over the rows.
NormGradients rms_norm_backward(const NormBackward& given, const at::Tensor& weight) {
  if (row_kernels::take_norm(given.sum)) return row_kernels::norm_backward(given, weight);
  const at::ScalarType stored = weight.scalar_type(), type = compute_type(stored);
  const at::Tensor rows = given.sum.to(type), dy = given.grad_normed.to(type), w = weight.to(type);
  const at::Tensor product = dy.mul(rows);
  NormGradients grads;
  if (given.wants_weight) grads.weight = product.t().mv(given.inverse_rms);
  const at::Tensor along = product.mv(w).mul_(given.inverse_rms.pow(3)).div_(weight.size(0)).unsqueeze(1);  // [R, 1]
  at::Tensor dsum = dy.mul(w).mul_(given.inverse_rms.unsqueeze(1)).addcmul_(rows, along, -1);
  if (given.grad_sum.defined()) dsum.add_(given.grad_sum);
  grads.sum = given.out.defined() ? given.out.copy_(dsum) : dsum.to(stored);
  return grads;
}

}  // namespace dga

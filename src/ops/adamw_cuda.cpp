#include "ops/adamw_cuda.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAGuard.h>

#include <cmath>

#include "kernels/adamw.h"
#include "kernels/gradient_norm.h"
#include "util/error.h"

namespace dga {
namespace {

kernels::GradientType gradient_type(const at::Tensor& gradient) {
  const at::ScalarType type = gradient.scalar_type();
  DGA_CHECK(type == at::kFloat || type == at::kBFloat16, "no kernel takes gradients of type ", type);
  return type == at::kFloat ? kernels::GradientType::fp32 : kernels::GradientType::bf16;
}

kernels::MomentType moment_type(const at::Tensor& moment) {
  switch (moment.scalar_type()) {
    case at::kFloat:
      return kernels::MomentType::fp32;
    case at::kBFloat16:
      return kernels::MomentType::bf16;
    case at::kChar:
      return kernels::MomentType::int8;
    default:
      fail(ExitCode::failure, "no kernel takes moments of type ", c10::toString(moment.scalar_type()));
  }
}

float* data_or_null(const at::Tensor& tensor) { return tensor.defined() ? tensor.data_ptr<float>() : nullptr; }

}  // namespace

void adamw_update_cuda(const AdamWRange& range, const AdamWStep& step, uint64_t rounding_key) {
  const at::ScalarType weight_type = range.weight.scalar_type();
  DGA_CHECK(weight_type == at::kFloat || (weight_type == at::kBFloat16 && range.weight_low.defined()),
            "no kernel updates weights of type ", weight_type);
  DGA_CHECK(weight_type == at::kBFloat16 || range.gradient.scalar_type() == at::kFloat,
            "fp32 weights have fp32 gradients");
  const c10::cuda::CUDAGuard guard(range.weight.device());
  const auto updates = static_cast<double>(step.updates);
  kernels::AdamWParams params;
  params.count = range.weight.numel();
  params.first = range.first;
  params.weight = range.weight.data_ptr();
  params.weight_low = range.weight_low.defined() ? range.weight_low.data_ptr<int16_t>() : nullptr;
  params.gradient = range.gradient.data_ptr();
  params.exp_avg = range.exp_avg.numbers.data_ptr();
  params.exp_avg_sq = range.exp_avg_sq.numbers.data_ptr();
  params.exp_avg_scale = data_or_null(range.exp_avg.scales);
  params.exp_avg_sq_scale = data_or_null(range.exp_avg_sq.scales);
  params.gradient_type = gradient_type(range.gradient);
  params.moments = moment_type(range.exp_avg.numbers);
  params.gradient_factor = step.factor.data_ptr<float>();
  params.stop = step.stop.data_ptr<int32_t>();
  params.decay = static_cast<float>(step.learning_rate * step.weight_decay);
  params.beta1 = static_cast<float>(step.beta1);
  params.beta2 = static_cast<float>(step.beta2);
  params.one_less_beta1 = static_cast<float>(1 - step.beta1);
  params.one_less_beta2 = static_cast<float>(1 - step.beta2);
  params.epsilon = static_cast<float>(step.epsilon);
  params.step_size = static_cast<float>(step.learning_rate / (1 - std::pow(step.beta1, updates)));
  params.inverse_root_c2 = static_cast<float>(1 / std::sqrt(1 - std::pow(step.beta2, updates)));
  params.rounding_key = rounding_key;
  kernels::adamw(params, at::cuda::getCurrentCUDAStream());
}

at::Tensor sum_of_squares_cuda(const at::Tensor& gradient) {
  const c10::cuda::CUDAGuard guard(gradient.device());
  at::Tensor sum = at::empty({}, gradient.options().dtype(at::kDouble));
  const auto workspace_bytes = static_cast<int64_t>(kernels::sum_of_squares_workspace_bytes());
  const at::Tensor workspace = at::empty({workspace_bytes}, gradient.options().dtype(at::kByte));
  kernels::sum_of_squares(
      {gradient.data_ptr(), gradient_type(gradient), gradient.numel(), sum.data_ptr<double>(), workspace.data_ptr()},
      at::cuda::getCurrentCUDAStream());
  return sum;
}

GradientNorm gradient_norm_cuda(const at::Tensor& squares, const at::Tensor& losses, double clip_norm,
                                at::Tensor stop) {
  const c10::cuda::CUDAGuard guard(squares.device());
  GradientNorm result{at::empty({}, squares.options()), at::empty({}, squares.options().dtype(at::kFloat))};
  kernels::gradient_clip({squares.data_ptr<double>(), losses.data_ptr<double>(), losses.numel(), clip_norm,
                          result.norm.data_ptr<double>(), result.factor.data_ptr<float>(), stop.data_ptr<int32_t>()},
                         at::cuda::getCurrentCUDAStream());
  return result;
}

}  // namespace dga

#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>

#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/swiglu.h"

// The pairs of forward and backward functions of src/ops as differentiable functions, for tests, and what those do that
// autograd does not show.
namespace dga::testing {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RopeFunction : torch::autograd::Function<RopeFunction> {
  static variable_list forward(AutogradContext* context, const at::Tensor& query, const at::Tensor& key,
                               const at::Tensor& cos, const at::Tensor& sin) {
    context->save_for_backward({cos, sin});
    const QueryKey y = apply_rope({query.clone(), key.clone()}, cos, sin);
    return {y.query, y.key};
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    const QueryKey x = rope_backward({grads[0], grads[1]}, saved[0], saved[1]);
    return {x.query, x.key, at::Tensor(), at::Tensor()};
  }
};

struct SwigluFunction : torch::autograd::Function<SwigluFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate, const at::Tensor& up) {
    context->save_for_backward({gate, up});
    return swiglu(gate, up);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    const SwigluGradients x = swiglu_backward(grads[0], saved[0], saved[1], Operands::kept);
    return {x.gate, x.up};
  }
};

/// Outputs: sum and normed.
struct AddNormFunction : torch::autograd::Function<AddNormFunction> {
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& residual,
                               const at::Tensor& weight, double eps) {
    const AddedNorm y = add_rms_norm(x, residual, weight, eps);
    context->save_for_backward({weight, y.sum, y.inverse_rms});
    return {y.sum, y.normed};
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    const NormGradients x = rms_norm_backward({grads[1], grads[0], saved[1], saved[2], true}, saved[0]);
    return {x.sum, x.sum, x.weight.to(saved[0].scalar_type()), at::Tensor()};
  }
};

/// add_rms_norm and rms_norm_backward into the middle of other memory: the same bits, and nothing beside them.
inline void expect_norm_written_where_told(c10::DeviceType device) {
  at::manual_seed(5);
  const auto options = at::TensorOptions(at::kBFloat16).device(device);
  const auto rows = [&] { return at::randn({6, 64}).to(options); };
  const at::Tensor x = rows(), residual = rows(), dy = rows(), dsum = rows(), weight = at::randn({64}).to(options);
  const at::Tensor memory = at::full({8, 64}, 7, options), place = memory.narrow(0, 1, 6);
  const auto outside = [&] { return at::cat({memory[0], memory[7]}).eq(7).all().item<bool>(); };
  const AddedNorm apart = add_rms_norm(x, residual, weight, 1e-2);
  const AddedNorm norm = add_rms_norm(x, residual, weight, 1e-2, place);
  EXPECT_EQ(norm.sum.data_ptr(), place.data_ptr());
  EXPECT_TRUE(place.equal(apart.sum));
  EXPECT_TRUE(norm.normed.equal(apart.normed));
  EXPECT_TRUE(outside());
  NormBackward given{dy, dsum, apart.sum, apart.inverse_rms};
  const NormGradients expected = rms_norm_backward(given, weight);
  given.out = place;
  const NormGradients gradients = rms_norm_backward(given, weight);
  EXPECT_EQ(gradients.sum.data_ptr(), place.data_ptr());
  EXPECT_TRUE(place.equal(expected.sum));
  EXPECT_TRUE(gradients.weight.equal(expected.weight));
  EXPECT_TRUE(outside());
}

}  // namespace dga::testing

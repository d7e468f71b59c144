#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>

#include <functional>
#include <vector>

#include "support/tensor_compare.h"

namespace dga::testing {

using TensorFunction = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

/// Compares the gradients of sum(f(inputs) * c), c random, with central differences for every element of every input
/// (double tensors). Passes if no gradient is off by more than `tolerance`.
inline ::testing::AssertionResult check_gradients(const TensorFunction& f, const std::vector<at::Tensor>& inputs,
                                                  double tolerance, double step = 1e-5) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& x : inputs) leaves.push_back(x.detach().clone().set_requires_grad(true));
  const at::Tensor out = f(leaves);
  const at::Tensor weights = at::randn_like(out.detach());
  const std::vector<at::Tensor> gradients = torch::autograd::grad({out.mul(weights).sum()}, leaves);
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < leaves.size(); ++i) {
    const at::Tensor numerical = at::empty_like(inputs[i], at::MemoryFormat::Contiguous);
    std::vector<at::Tensor> arguments;
    for (const at::Tensor& x : inputs) arguments.push_back(x.detach().clone(at::MemoryFormat::Contiguous));
    const at::Tensor flat = arguments[i].view(-1), result = numerical.view(-1);
    for (int64_t e = 0; e < flat.numel(); ++e) {
      const double value = flat[e].item<double>();
      const auto at_value = [&](double x) {
        flat[e].fill_(x);
        return f(arguments).mul(weights).sum().item<double>();
      };
      result[e].fill_((at_value(value + step) - at_value(value - step)) / (2 * step));
      flat[e].fill_(value);
    }
    const ::testing::AssertionResult ok = compare(gradients[i], numerical, tolerance);
    if (!ok) return ::testing::AssertionFailure() << "gradient of input " << i << ": " << ok.message();
  }
  return ::testing::AssertionSuccess();
}

}  // namespace dga::testing

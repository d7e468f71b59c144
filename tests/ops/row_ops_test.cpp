// Norm, RoPE, SwiGLU and cross-entropy on a GPU: what the kernels take and what LibTorch's operations take instead give
// the same function. The kernels themselves are judged in tests/kernels.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include "ops/cross_entropy.h"
#include "ops/weight_gradient.h"
#include "ops/with_gradient.h"
#include "support/tensor_compare.h"

namespace dga::testing {
namespace {

/// An operation in all its outputs and gradients.
using Operation = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;

std::vector<at::Tensor> with_gradients(const Operation& f, const std::vector<at::Tensor>& inputs) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& x : inputs) leaves.push_back(x.detach().set_requires_grad(true));
  std::vector<at::Tensor> all = f(leaves);
  std::vector<at::Tensor> directions;
  for (size_t i = 0; i < all.size(); ++i) {
    const at::Tensor ramp = at::arange(all[i].numel(), at::kDouble).mul(0.7 + static_cast<double>(i)).sin();
    directions.push_back(ramp.view(all[i].sizes()).to(all[i].options()));
  }
  const std::vector<at::Tensor> gradients = torch::autograd::grad(all, leaves, directions);
  all.insert(all.end(), gradients.begin(), gradients.end());
  return all;
}

class RowOpsGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU in this machine";
    at::manual_seed(3);
  }
  /// `type` on the GPU against double on the CPU, on the same values: within `units` roundings of `type`.
  void check(const Operation& f, const std::vector<at::Tensor>& inputs, at::ScalarType type, double units) {
    std::vector<at::Tensor> on_gpu, exact;
    for (const at::Tensor& x : inputs) {
      on_gpu.push_back(x.to(at::kCUDA, type));
      exact.push_back(on_gpu.back().to(at::kCPU, at::kDouble));
    }
    const std::vector<at::Tensor> actual = with_gradients(f, on_gpu), expected = with_gradients(f, exact);
    const double unit = type == at::kBFloat16 ? 0x1p-9 : 0x1p-24;
    for (size_t i = 0; i < actual.size(); ++i) {
      const double scale = expected[i].abs().max().item<double>();
      EXPECT_TRUE(compare(actual[i].to(at::kCPU, at::kDouble), expected[i], units * unit * scale))
          << i << " of " << c10::toString(type) << " " << inputs[0].sizes();
    }
  }
};

TEST_F(RowOpsGpu, RmsNormWithResidual) {
  const Operation f = [](const std::vector<at::Tensor>& in) {
    return AddNormFunction::apply(in[0], in[1], in[2], 1e-5);
  };
  for (const int64_t width : {64, 100, 4096, 8200}) {  // 100 and 8200 are not for the kernel
    for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
      check(f, {at::randn({9, width}), at::randn({9, width}), at::randn({width})}, type, 16);
    }
  }
}

TEST_F(RowOpsGpu, RmsNormWritesWhereItIsTold) { expect_norm_written_where_told(at::kCUDA); }

TEST_F(RowOpsGpu, RmsNormOfMemoryThatTheKernelCannotLoad) {
  const at::Tensor weight = at::randn({65}).to(at::kCUDA, at::kBFloat16).narrow(0, 1, 64);  // 2 bytes off
  const at::Tensor x = at::randn({64, 9}).to(at::kCUDA, at::kBFloat16).t();
  const at::Tensor expected = rms_norm(x.cpu().contiguous(), weight.cpu(), 1e-5);
  EXPECT_TRUE(compare(rms_norm(x, weight, 1e-5).cpu(), expected, 0.05));
}

TEST_F(RowOpsGpu, RopeOfQueriesAndKeys) {
  for (const int64_t dim : {10, 64, 128}) {  // 10 is not for the kernel
    const at::Tensor cos = at::randn({2, 7, dim}), sin = at::randn({2, 7, dim});
    const Operation f = [&](const std::vector<at::Tensor>& in) {
      return RopeFunction::apply(in[0], in[1], cos.to(in[0].device()), sin.to(in[0].device()));
    };
    for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
      check(f, {at::randn({2, 7, 4, dim}), at::randn({2, 7, 2, dim})}, type, 8);
    }
  }
}

TEST_F(RowOpsGpu, Swiglu) {
  const Operation f = [](const std::vector<at::Tensor>& in) {
    return std::vector<at::Tensor>{SwigluFunction::apply(in[0], in[1])};
  };
  for (const int64_t width : {37, 1376}) {  // 37 * 3 is not for the kernel
    for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
      check(f, {at::randn({3, width}), at::randn({3, width})}, type, 16);
    }
  }
}

TEST_F(RowOpsGpu, SwigluGivesItsOperandsUp) {
  const auto tensor = [] { return at::randn({5, 64}).to(at::kCUDA, at::kBFloat16); };
  const at::Tensor gate = tensor(), up = tensor(), grad = tensor();
  const SwigluGradients kept = swiglu_backward(grad, gate, up, Operands::kept);
  const SwigluGradients consumed = swiglu_backward(grad.clone(), gate.clone(), up.clone(), Operands::consumed);
  EXPECT_TRUE(kept.gate.equal(consumed.gate) && kept.up.equal(consumed.up) && kept.product.equal(consumed.product));
}

TEST_F(RowOpsGpu, CrossEntropy) {
  for (const int64_t vocabulary : {37, 1000}) {
    const auto options = at::TensorOptions(at::kCUDA).dtype(at::kFloat);
    const at::Tensor values = at::randn({6, vocabulary}).mul(3);
    const at::Tensor labels = at::randint(vocabulary, {6}, at::kLong);
    labels[2] = kNoLabel;
    const TokenLosses expected = cross_entropy(values.to(at::kDouble), labels, 0.01, at::kDouble);
    for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {  // fp32 is not for the kernel
      const at::Tensor logits =
          type == at::kBFloat16 ? padded_logits(6, vocabulary, options) : at::empty({6, vocabulary}, options);
      logits.copy_(values);
      const TokenLosses actual = cross_entropy(logits, labels.cuda(), 0.01, type);
      EXPECT_TRUE(compare(actual.nll.to(at::kCPU, at::kDouble), expected.nll, 2e-5));
      EXPECT_TRUE(compare(actual.log_sum_exp.to(at::kCPU, at::kDouble), expected.log_sum_exp, 2e-5));
      const double tolerance = type == at::kBFloat16 ? 0x1p-8 : 1e-5;
      EXPECT_TRUE(compare(actual.gradient.to(at::kCPU, at::kDouble), expected.gradient, tolerance));
    }
  }
}

TEST_F(RowOpsGpu, WeightGradientsOfPartsAreSummedInFp32) {
  const at::Tensor dy = at::randn({300, 64}).to(at::kCUDA, at::kBFloat16);
  const at::Tensor x = at::randn({300, 32}).to(at::kCUDA, at::kBFloat16);
  WeightGradient parts(3);
  for (int64_t i = 0; i < 3; ++i) parts.add(dy.narrow(0, 100 * i, 100), x.narrow(0, 100 * i, 100));
  const at::Tensor sum = parts.finish();
  EXPECT_EQ(sum.scalar_type(), at::kFloat);
  const at::Tensor exact = at::mm(dy.to(at::kDouble).t(), x.to(at::kDouble));
  EXPECT_TRUE(compare(sum.to(at::kDouble), exact, 1e-4));
}

// The embedding's gradient is LibTorch's: it sorts, then sums in a fixed order, in fp32 from 3073 tokens on.
TEST_F(RowOpsGpu, EmbeddingGradientRepeatsItsBits) {
  const at::Tensor grad = at::randn({5000, 64}).to(at::kCUDA, at::kBFloat16);
  const at::Tensor tokens = at::randint(50, {5000}, at::kLong).cuda();
  const auto gradient = [&] { return at::embedding_dense_backward(grad, tokens, 50, -1, false); };
  const at::Tensor first = gradient();
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(first.equal(gradient()));
  const at::Tensor exact = at::zeros({50, 64}, at::kDouble).index_add(0, tokens.cpu(), grad.to(at::kCPU, at::kDouble));
  EXPECT_TRUE(compare(first.to(at::kCPU, at::kDouble), exact, 0x1p-8 * exact.abs().max().item<double>()));
}

}  // namespace
}  // namespace dga::testing

// rms_norm, rope and swiglu against their formulas and central differences.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>

#include <cmath>

#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/swiglu.h"
#include "ops/with_gradient.h"
#include "support/gradient_check.h"
#include "support/tensor_compare.h"
#include "util/error.h"

namespace dga {
namespace {

using testing::AddNormFunction;
using testing::check_gradients;
using testing::compare;
using testing::max_error;
using testing::RopeFunction;
using testing::SwigluFunction;

const at::TensorOptions kDouble = at::TensorOptions().dtype(at::kDouble);

TEST(RmsNorm, EqualsTheFormulaElementByElement) {
  at::manual_seed(1);
  const at::Tensor x = at::randn({3, 5, 7}, kDouble), weight = at::randn({7}, kDouble);
  at::Tensor expected = at::empty_like(x);
  for (int64_t row = 0; row < 15; ++row) {
    const at::Tensor in = x.view({15, 7})[row], out = expected.view({15, 7})[row];
    double square = 0;
    for (int64_t i = 0; i < 7; ++i) square += std::pow(in[i].item<double>(), 2);
    for (int64_t i = 0; i < 7; ++i) {
      out[i] = weight[i].item<double>() * in[i].item<double>() / std::sqrt(square / 7 + 1e-2);
    }
  }
  EXPECT_TRUE(compare(rms_norm(x, weight, 1e-2), expected, 1e-14));
}

TEST(RmsNorm, Gradients) {
  at::manual_seed(2);
  const auto f = [](const std::vector<at::Tensor>& in) { return rms_norm(in[0], in[1], 1e-2); };
  EXPECT_TRUE(check_gradients(f, {at::randn({2, 3, 5}, kDouble), at::randn({5}, kDouble)}, 1e-8));
  EXPECT_TRUE(check_gradients(f, {at::randn({5, 3}, kDouble).t(), at::randn({5}, kDouble)}, 1e-8));
}

TEST(RmsNorm, AddsTheResidualFirst) {
  at::manual_seed(3);
  for (const at::ScalarType type : {at::kDouble, at::kBFloat16}) {
    const at::Tensor x = at::randn({4, 6}).to(type), residual = at::randn({4, 6}).to(type);
    const at::Tensor weight = at::randn({6}).to(type);
    const AddedNorm both = add_rms_norm(x, residual, weight, 1e-2);
    EXPECT_TRUE(both.sum.equal(x + residual));
    EXPECT_TRUE(both.normed.equal(rms_norm(both.sum, weight, 1e-2)));
    EXPECT_TRUE(both.normed.equal(normed_again(both.sum, both.inverse_rms, weight, 1e-2)));
  }
}

TEST(RmsNorm, WritesWhereItIsTold) { testing::expect_norm_written_where_told(at::kCPU); }

TEST(RmsNorm, GradientsOfSumAndNorm) {
  at::manual_seed(4);
  const auto f = [](const std::vector<at::Tensor>& in) {
    return at::cat(AddNormFunction::apply(in[0], in[1], in[2], 1e-2));
  };
  EXPECT_TRUE(
      check_gradients(f, {at::randn({3, 5}, kDouble), at::randn({3, 5}, kDouble), at::randn({5}, kDouble)}, 1e-8));
}

TEST(RmsNorm, LowPrecisionRoundsTheQuotientBeforeTheWeight) {
  at::manual_seed(3);
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf}) {
    const at::Tensor x = at::randn({9, 33}).to(type), weight = at::randn({33}).to(type);
    const at::Tensor wide = x.to(at::kFloat);
    const at::Tensor quotient = wide * at::rsqrt(wide.pow(2).mean(-1, true) + 1e-5);
    EXPECT_TRUE(compare(rms_norm(x, weight, 1e-5), weight * quotient.to(type), 0.01));
    EXPECT_LE((rms_norm(x, weight, 1e-5) != weight * quotient.to(type)).sum().item<int64_t>(), 3);
  }
}

TEST(RmsNorm, RefusesWeightsThatDoNotFit) {
  EXPECT_THROW(rms_norm(at::ones({2, 3}), at::ones({2}), 1e-5), Error);
  EXPECT_THROW(rms_norm(at::ones({2, 3}), at::ones({3}, at::kBFloat16), 1e-5), Error);
}

// Angles that differ in every element, so that a swapped half shows.
std::pair<at::Tensor, at::Tensor> tables(int64_t batch, int64_t length, int64_t width) {
  return {at::randn({batch, length, width}, kDouble), at::randn({batch, length, width}, kDouble)};
}

TEST(Rope, EqualsTheFormulaElementByElement) {
  at::manual_seed(4);
  for (const int64_t table_rows : {1, 2}) {
    const at::Tensor x = at::randn({2, 3, 2, 6}, kDouble);
    const auto [cos, sin] = tables(table_rows, 3, 6);
    at::Tensor expected = at::empty_like(x);
    const auto xa = x.accessor<double, 4>();
    auto ea = expected.accessor<double, 4>();
    const auto ca = cos.accessor<double, 3>(), sa = sin.accessor<double, 3>();
    for (int64_t b = 0; b < 2; ++b) {
      for (int64_t t = 0; t < 3; ++t) {
        for (int64_t h = 0; h < 2; ++h) {
          for (int64_t d = 0; d < 6; ++d) {
            const double other = d < 3 ? -xa[b][t][h][d + 3] : xa[b][t][h][d - 3];
            const int64_t row = table_rows == 1 ? 0 : b;
            ea[b][t][h][d] = xa[b][t][h][d] * ca[row][t][d] + other * sa[row][t][d];
          }
        }
      }
    }
    const QueryKey rotated = apply_rope({x.clone(), x.narrow(2, 1, 1).clone()}, cos, sin);
    EXPECT_TRUE(compare(rotated.query, expected, 1e-14));
    EXPECT_TRUE(compare(rotated.key, expected.narrow(2, 1, 1), 1e-14));
  }
}

TEST(Rope, Gradients) {
  at::manual_seed(5);
  const auto [cos, sin] = tables(1, 3, 4);
  const auto f = [c = cos, s = sin](const std::vector<at::Tensor>& in) {
    return at::cat(RopeFunction::apply(in[0], in[1], c, s), 2);
  };
  EXPECT_TRUE(check_gradients(f, {at::randn({2, 3, 2, 4}, kDouble), at::randn({2, 3, 1, 4}, kDouble)}, 1e-8));
}

TEST(Rope, LowPrecisionRoundsOnce) {
  at::manual_seed(6);
  const at::Tensor x = at::randn({1, 5, 2, 8}).to(at::kBFloat16);
  const auto [cos, sin] = tables(1, 5, 8);
  const auto rotated = [c = cos.to(at::kFloat), s = sin.to(at::kFloat)](const at::Tensor& in) {
    return apply_rope({in.clone(), in.clone()}, c, s).key;
  };
  EXPECT_TRUE(at::equal(rotated(x), rotated(x.to(at::kFloat)).to(at::kBFloat16)));
}

TEST(Rope, RefusesTablesThatDoNotFit) {
  const at::Tensor odd = at::ones({1, 2, 1, 3}), even = at::ones({1, 2, 1, 4});
  EXPECT_THROW(apply_rope({odd, odd}, at::ones({1, 2, 3}), at::ones({1, 2, 3})), Error);
  EXPECT_THROW(apply_rope({even, even}, at::ones({1, 3, 4}), at::ones({1, 3, 4})), Error);
  EXPECT_THROW(apply_rope({even, odd}, at::ones({1, 2, 4}), at::ones({1, 2, 4})), Error);
}

TEST(SwiGlu, EqualsTheFormulaElementByElement) {
  at::manual_seed(7);
  const at::Tensor gate = at::randn({11}, kDouble).mul(20), up = at::randn({11}, kDouble);
  at::Tensor expected = at::empty_like(gate);
  for (int64_t i = 0; i < 11; ++i) {
    const double g = gate[i].item<double>();
    expected[i] = g / (1 + std::exp(-g)) * up[i].item<double>();
  }
  EXPECT_TRUE(compare(swiglu(gate, up), expected, 1e-13));
}

TEST(SwiGlu, Gradients) {
  at::manual_seed(8);
  const auto f = [](const std::vector<at::Tensor>& in) { return SwigluFunction::apply(in[0], in[1]); };
  EXPECT_TRUE(check_gradients(f, {at::randn({3, 4}, kDouble), at::randn({3, 4}, kDouble)}, 1e-8));
}

TEST(SwiGlu, BackwardGivesTheProductAgain) {
  at::manual_seed(8);
  const at::Tensor gate = at::randn({3, 5}), up = at::randn({3, 5});
  const SwigluGradients kept = swiglu_backward(at::randn({3, 5}), gate, up, Operands::kept);
  EXPECT_TRUE(kept.product.equal(swiglu(gate, up)));
}

TEST(SwiGlu, RefusesShapesThatDiffer) { EXPECT_THROW(swiglu(at::ones({2, 3}), at::ones({3})), Error); }

TEST(Pointwise, Float32ErrsAtMostTwiceThePlainFormula) {
  at::manual_seed(9);
  const at::Tensor x = at::randn({64, 96}), weight = at::randn({96}), up = at::randn({64, 96});
  const at::Tensor xd = x.to(at::kDouble), wd = weight.to(at::kDouble), ud = up.to(at::kDouble);
  const auto norm = [](const at::Tensor& a, const at::Tensor& w) {
    return w * (a * at::rsqrt(a.pow(2).mean(-1, true) + 1e-6));
  };
  EXPECT_LE(max_error(rms_norm(x, weight, 1e-6), norm(xd, wd)), 2 * max_error(norm(x, weight), norm(xd, wd)));
  EXPECT_LE(max_error(swiglu(x, up), at::silu(xd) * ud), 2 * max_error(at::silu(x) * up, at::silu(xd) * ud));
}

}  // namespace
}  // namespace dga

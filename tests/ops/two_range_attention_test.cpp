// two_range_attention against a dense softmax whose mask is set element by element.
#include "ops/two_range_attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/cuda.h>

#include <algorithm>
#include <limits>

#include "support/gradient_check.h"
#include "support/tensor_compare.h"
#include "util/error.h"

namespace dga {
namespace {

using testing::check_gradients;
using testing::compare;
using testing::max_error;

struct Shape {
  int64_t queries, heads, kv_heads, width, first, second;
};

struct Inputs {
  at::Tensor q, first_keys, first_values, bias, second_keys, second_values;
  std::vector<at::Tensor> list() const { return {q, first_keys, first_values, bias, second_keys, second_values}; }
};

Inputs random_inputs(const Shape& s) {
  const auto normal = [](std::initializer_list<int64_t> sizes) {
    return at::randn(at::IntArrayRef(sizes), at::TensorOptions().dtype(at::kDouble));
  };
  return {normal({s.queries, s.heads, s.width}),   normal({s.kv_heads, s.first, s.width}),
          normal({s.kv_heads, s.first, s.width}),  normal({s.kv_heads, s.first}),
          normal({s.kv_heads, s.second, s.width}), normal({s.kv_heads, s.second, s.width})};
}

// A random non-decreasing bound in [0, most] for every KV head.
at::Tensor random_bound(int64_t kv_heads, int64_t queries, int64_t most) {
  return std::get<0>(at::randint(0, most + 1, {kv_heads, queries}, at::TensorOptions().dtype(at::kLong)).sort(1));
}

TwoRangeBounds random_bounds(const Shape& s) {
  const auto pair = [&s](int64_t most) {
    const at::Tensor a = random_bound(s.kv_heads, s.queries, most), b = random_bound(s.kv_heads, s.queries, most);
    return std::pair{at::minimum(a, b), at::maximum(a, b)};
  };
  const auto [s0, n] = pair(s.first);
  const auto [lo, hi] = pair(s.second);
  return {s0, n, lo, hi};
}

at::Tensor attend(const std::vector<at::Tensor>& in, const TwoRangeBounds& bounds, TwoRangeOptions options) {
  return two_range_attention(in[0], {in[1], in[2], in[3], in[4], in[5]}, bounds, options);
}

// The same function with every head's full matrix of logits.
at::Tensor dense(const std::vector<at::Tensor>& in, const TwoRangeBounds& bounds, double scale) {
  const at::Tensor& q = in[0];
  const int64_t queries = q.size(0), heads = q.size(1), kv_heads = in[1].size(0);
  const int64_t first = in[1].size(1), second = in[4].size(1);
  std::vector<at::Tensor> outputs;
  for (int64_t h = 0; h < heads; ++h) {
    const int64_t g = h / (heads / kv_heads);
    at::Tensor visible = at::zeros({queries, first + second}, at::kBool);
    for (int64_t t = 0; t < queries; ++t) {
      const auto bound = [&](const at::Tensor& b) { return b[g][t].item<int64_t>(); };
      for (int64_t i = bound(bounds.first_begin); i < bound(bounds.first_end); ++i) visible[t][i] = true;
      for (int64_t i = bound(bounds.second_begin); i < bound(bounds.second_end); ++i) visible[t][first + i] = true;
    }
    const at::Tensor keys = at::cat({in[1][g], in[4][g]}), values = at::cat({in[2][g], in[5][g]});
    const at::Tensor bias =
        at::cat({in[3][g].to(q.scalar_type()), at::zeros({second}, q.options().requires_grad(false))});
    const at::Tensor logits = at::matmul(q.select(1, h), keys.t()) * scale + bias;
    const at::Tensor masked = at::where(visible, logits, -std::numeric_limits<double>::infinity());
    const at::Tensor any = visible.any(1, true);
    const at::Tensor weights = at::softmax(at::where(any, masked, 0.0), 1);
    outputs.push_back(at::where(any, at::matmul(weights.to(q.scalar_type()), values), 0.0));
  }
  return at::stack(outputs, 1);
}

// Output and all gradients for the weights `dout` of the output.
using Function = std::function<at::Tensor(const std::vector<at::Tensor>&)>;
std::vector<at::Tensor> with_gradients(const Function& f, const std::vector<at::Tensor>& inputs,
                                       const at::Tensor& dout) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& x : inputs) leaves.push_back(x.detach().clone().set_requires_grad(true));
  std::vector<at::Tensor> result = {f(leaves)};
  const std::vector<at::Tensor> gradients = torch::autograd::grad({result[0]}, leaves, {dout});
  result.insert(result.end(), gradients.begin(), gradients.end());
  return result;
}

const std::vector<Shape> kShapes = {{1, 1, 1, 1, 1, 1},   {5, 2, 2, 3, 4, 7},    {17, 4, 2, 5, 9, 1},
                                    {64, 8, 1, 4, 1, 33}, {65, 4, 4, 8, 63, 65}, {130, 6, 3, 7, 40, 127},
                                    {9, 2, 1, 4, 0, 12},  {9, 2, 1, 4, 12, 0}};

TEST(TwoRangeAttention, EqualsTheDenseFormulaWithGradients) {
  at::manual_seed(1);
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(::testing::Message() << shape.queries << " queries, lists " << shape.first << ", " << shape.second);
    const std::vector<at::Tensor> in = random_inputs(shape).list();
    const TwoRangeBounds bounds = random_bounds(shape);
    const at::Tensor dout = at::randn_like(in[0]);
    const auto expected = with_gradients([&](const auto& x) { return dense(x, bounds, 0.3); }, in, dout);
    for (const int64_t chunk_bytes : {int64_t{0}, int64_t{1}, int64_t{4000}}) {
      const auto actual = with_gradients(
          [&](const auto& x) {
            return attend(x, bounds, {0.3, chunk_bytes});
          },
          in, dout);
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_TRUE(compare(actual[i], expected[i], 1e-12)) << "tensor " << i << ", chunk_bytes " << chunk_bytes;
      }
    }
  }
}

TEST(TwoRangeAttention, NumericalGradients) {
  at::manual_seed(2);
  const Shape shape{7, 4, 2, 3, 5, 6};
  const TwoRangeBounds bounds = random_bounds(shape);
  const auto f = [&](const std::vector<at::Tensor>& in) { return attend(in, bounds, {0.7, 200}); };
  EXPECT_TRUE(check_gradients(f, random_inputs(shape).list(), 1e-8));
}

TEST(TwoRangeAttention, AQueryThatSeesNothingGivesZeros) {
  at::manual_seed(3);
  const Shape shape{4, 2, 1, 3, 2, 2};
  const std::vector<at::Tensor> in = random_inputs(shape).list();
  const auto bound = [](std::vector<int64_t> values) { return at::tensor(values, at::kLong).unsqueeze(0); };
  // Queries 0 and 2 see nothing: two empty ranges, one of them with its end before its begin.
  const TwoRangeBounds bounds{bound({0, 0, 2, 2}), bound({0, 1, 1, 2}), bound({0, 0, 1, 1}), bound({0, 1, 1, 2})};
  const auto result = with_gradients([&](const auto& x) { return attend(x, bounds, {1.0}); }, in, at::ones_like(in[0]));
  for (const int64_t t : {0, 2}) {
    EXPECT_TRUE(compare(result[0][t], at::zeros_like(result[0][t]), 0));
    EXPECT_TRUE(compare(result[1][t], at::zeros_like(result[1][t]), 0));
  }
  for (const at::Tensor& x : result) EXPECT_TRUE(at::isfinite(x).all().item<bool>());
  EXPECT_GT(result[0][1].abs().max().item<double>(), 0);
}

TEST(TwoRangeAttention, WorksWithoutSecondListBiasAndBegin) {
  at::manual_seed(4);
  const at::Tensor q = at::randn({5, 2, 4}), k = at::randn({1, 5, 4}), v = at::randn({1, 5, 4});
  TwoRangeBounds bounds;
  bounds.first_end = at::arange(1, 6, at::kLong).unsqueeze(0);
  const at::Tensor out = two_range_attention(q, {k, v, {}, {}, {}}, bounds, {0.5});
  const at::Tensor mask = at::ones({5, 5}, at::kBool).tril();
  const at::Tensor logits = at::matmul(q.transpose(0, 1), k.transpose(1, 2)) * 0.5;
  const at::Tensor weights = at::softmax(at::where(mask, logits, -1e30), -1);
  EXPECT_TRUE(compare(out, at::matmul(weights, v).transpose(0, 1), 1e-6));
}

// Entries outside a query's ranges must not touch a single bit, whatever they hold.
TEST(TwoRangeAttention, HiddenEntriesCannotChangeBits) {
  at::manual_seed(5);
  const Shape shape{300, 4, 2, 16, 50, 300};
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    Inputs in = random_inputs(shape);
    for (at::Tensor* x : {&in.q, &in.first_keys, &in.first_values, &in.second_keys, &in.second_values}) {
      *x = x->to(type);
    }
    in.bias = in.bias.to(at::kFloat);
    TwoRangeBounds bounds = random_bounds(shape);
    const auto run = [&] { return attend(in.list(), bounds, {0.25}); };
    const at::Tensor before = run();
    const int64_t t = 137;
    for (int64_t g = 0; g < 2; ++g) {
      const int64_t n = bounds.first_end[g][t].item<int64_t>(), hi = bounds.second_end[g][t].item<int64_t>();
      for (at::Tensor* x : {&in.first_keys, &in.first_values}) (*x)[g].slice(0, n).mul_(-1000);
      for (at::Tensor* x : {&in.second_keys, &in.second_values}) (*x)[g].slice(0, hi).mul_(-1000);
      in.bias[g].slice(0, n).add_(50);
    }
    const at::Tensor after = run();
    EXPECT_TRUE(at::equal(before.slice(0, 0, t + 1), after.slice(0, 0, t + 1)));
    EXPECT_FALSE(at::equal(before, after));
  }
}

// Root mean square, which unlike the largest error does not depend on where a sum happens to round badly.
double mean_error(const at::Tensor& actual, const at::Tensor& exact) {
  return actual.to(at::kDouble).sub(exact).pow(2).mean().sqrt().item<double>();
}

using ErrorMeasure = double (*)(const at::Tensor&, const at::Tensor&);

double worst_ratio(at::ScalarType type, ErrorMeasure error) {
  const Shape shape{130, 8, 2, 16, 40, 127};
  const std::vector<at::Tensor> wide = random_inputs(shape).list();
  const TwoRangeBounds bounds = random_bounds(shape);
  const auto cast = [&](const at::Tensor& x) { return x.to(type); };
  std::vector<at::Tensor> in, exact_in;
  for (size_t i = 0; i < wide.size(); ++i) in.push_back(i == 3 ? wide[i].to(at::kFloat) : cast(wide[i]));
  for (const at::Tensor& x : in) exact_in.push_back(x.to(at::kDouble));
  const at::Tensor dout = cast(at::randn_like(wide[0]));
  const auto exact =
      with_gradients([&](const auto& x) { return dense(x, bounds, 0.25); }, exact_in, dout.to(at::kDouble));
  const auto plain = with_gradients([&](const auto& x) { return dense(x, bounds, 0.25); }, in, dout);
  const auto ours = with_gradients([&](const auto& x) { return attend(x, bounds, {0.25}); }, in, dout);
  double ratio = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    ratio = std::max(ratio, error(ours[i], exact[i]) / error(plain[i], exact[i]));
  }
  return ratio;
}

TEST(TwoRangeAttention, ErrsAtMostTwiceThePlainFormula) {
  at::manual_seed(6);
  EXPECT_LE(worst_ratio(at::kFloat, mean_error), 2);
  EXPECT_LE(worst_ratio(at::kBFloat16, max_error), 2);
  EXPECT_LE(worst_ratio(at::kHalf, max_error), 2);
}

TEST(TwoRangeAttention, RefusesWhatDoesNotFit) {
  const Shape shape{3, 4, 2, 4, 3, 3};
  const std::vector<at::Tensor> in = random_inputs(shape).list();
  const TwoRangeBounds good = random_bounds(shape);
  TwoRangeBounds bounds = good;
  bounds.first_end = bounds.first_end.to(at::kInt);
  EXPECT_THROW(attend(in, bounds, {}), Error);
  bounds = good;
  bounds.second_end = at::Tensor();
  EXPECT_THROW(attend(in, bounds, {}), Error);
  std::vector<at::Tensor> bad = in;
  bad[1] = bad[1].to(at::kFloat);
  EXPECT_THROW(attend(bad, good, {}), Error);
  bad = in;
  bad[3] = bad[3].slice(1, 1);
  EXPECT_THROW(attend(bad, good, {}), Error);
}

class TwoRangeAttentionGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(TwoRangeAttentionGpu, EqualsTheCpu) {
  at::manual_seed(7);
  for (const Shape& shape : kShapes) {
    const std::vector<at::Tensor> in = random_inputs(shape).list();
    const TwoRangeBounds bounds = random_bounds(shape);
    const at::Tensor dout = at::randn_like(in[0]);
    std::vector<at::Tensor> device_in;
    for (const at::Tensor& x : in) device_in.push_back(x.cuda());
    const TwoRangeBounds device_bounds{bounds.first_begin.cuda(), bounds.first_end.cuda(), bounds.second_begin.cuda(),
                                       bounds.second_end.cuda()};
    const auto expected = with_gradients([&](const auto& x) { return attend(x, bounds, {0.3}); }, in, dout);
    const auto actual = with_gradients(
        [&](const auto& x) {
          return attend(x, device_bounds, {0.3, 4000});
        },
        device_in, dout.cuda());
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(compare(actual[i].cpu(), expected[i], 1e-12));
  }
}

}  // namespace
}  // namespace dga

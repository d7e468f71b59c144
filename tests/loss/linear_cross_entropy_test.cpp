#include "loss/linear_cross_entropy.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>

#include <cmath>
#include <limits>

#include "util/error.h"

namespace dga {
namespace {

struct Problem {
  at::Tensor hidden, weight, labels;
};

Problem make_problem(int64_t tokens, int64_t vocabulary, int64_t size, at::ScalarType type, uint64_t seed = 1) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const auto options = at::TensorOptions(at::kDouble);
  Problem problem;
  problem.hidden = at::randn({tokens, size}, generator, options).to(type);
  problem.weight = at::randn({vocabulary, size}, generator, options).to(type);
  problem.labels = at::randint(0, vocabulary, {tokens}, generator, at::TensorOptions(at::kLong));
  problem.labels.masked_fill_(at::rand({tokens}, generator, options) < 0.3, kNoLabel);
  return problem;
}

struct Expected {
  double loss = 0, nll = 0;
  int64_t count = 0;
  at::Tensor grad_hidden, grad_weight;  // double
};

/// The definition, one token and one vocabulary entry at a time in double.
Expected loop_formula(const Problem& problem, double z_loss) {
  const at::Tensor hidden = problem.hidden.to(at::kDouble), weight = problem.weight.to(at::kDouble);
  const int64_t vocabulary = weight.size(0), size = weight.size(1);
  Expected expected;
  expected.grad_hidden = at::zeros_like(hidden);
  expected.grad_weight = at::zeros_like(weight);
  const auto h = hidden.accessor<double, 2>(), w = weight.accessor<double, 2>();
  auto gh = expected.grad_hidden.accessor<double, 2>(), gw = expected.grad_weight.accessor<double, 2>();
  for (int64_t t = 0; t < hidden.size(0); ++t) {
    const int64_t label = problem.labels[t].item<int64_t>();
    if (label == -100) continue;
    std::vector<double> logits(vocabulary, 0.0);
    double sum = 0;
    for (int64_t v = 0; v < vocabulary; ++v) {
      for (int64_t e = 0; e < size; ++e) logits[v] += h[t][e] * w[v][e];
      sum += std::exp(logits[v]);
    }
    const double lse = std::log(sum);
    expected.nll += lse - logits[label];
    expected.loss += lse - logits[label] + z_loss * lse * lse;
    expected.count += 1;
    for (int64_t v = 0; v < vocabulary; ++v) {
      const double by_logit = std::exp(logits[v]) / sum * (1 + 2 * z_loss * lse) - (v == label ? 1 : 0);
      for (int64_t e = 0; e < size; ++e) {
        gh[t][e] += by_logit * w[v][e];
        gw[v][e] += by_logit * h[t][e];
      }
    }
  }
  return expected;
}

struct Result {
  double loss = 0, nll = 0;
  int64_t count = 0;
  at::Tensor grad_hidden, grad_weight;
};

Result run(const Problem& problem, const LossConfig& config, double scale = 1.0) {
  const at::Tensor hidden = problem.hidden.clone().requires_grad_();
  const at::Tensor weight = problem.weight.clone().requires_grad_();
  const LossSum sum = linear_cross_entropy(hidden, weight, problem.labels, config);
  (sum.loss_sum * scale).backward();
  return {sum.loss_sum.item<double>(), sum.nll_sum.item<double>(), sum.count.item<int64_t>(), hidden.grad(),
          weight.grad()};
}

/// Largest difference relative to the largest expected value; NaN counts as infinite.
double error(const at::Tensor& actual, const at::Tensor& expected) {
  const double worst = (actual.to(at::kDouble) - expected).abs().max().item<double>();
  return std::isfinite(worst) ? worst / expected.abs().max().item<double>() : std::numeric_limits<double>::infinity();
}

TEST(LinearCrossEntropy, EqualsTheLoopFormulaInEveryChunking) {
  const Problem problem = make_problem(37, 23, 11, at::kDouble);
  for (const double z_loss : {0.0, 0.02}) {
    const Expected expected = loop_formula(problem, z_loss);
    for (const int64_t chunk : {1, 5, 36, 37, 38, 4096}) {
      const Result result = run(problem, {chunk, z_loss});
      EXPECT_LE(std::abs(result.loss - expected.loss), 1e-12 * expected.loss) << chunk;
      EXPECT_LE(std::abs(result.nll - expected.nll), 1e-12 * expected.nll) << chunk;
      EXPECT_EQ(result.count, expected.count);
      EXPECT_LE(error(result.grad_hidden, expected.grad_hidden), 1e-13) << chunk;
      EXPECT_LE(error(result.grad_weight, expected.grad_weight), 1e-13) << chunk;
    }
  }
}

TEST(LinearCrossEntropy, SinglePrecisionStaysNearDouble) {
  const Problem problem = make_problem(64, 300, 32, at::kFloat);
  const Expected expected = loop_formula(problem, 1e-3);
  const Result result = run(problem, {16, 1e-3});
  EXPECT_LE(std::abs(result.loss - expected.loss), 1e-6 * expected.loss);
  EXPECT_LE(error(result.grad_hidden, expected.grad_hidden), 1e-6);
  EXPECT_LE(error(result.grad_weight, expected.grad_weight), 1e-6);
}

TEST(LinearCrossEntropy, Bfloat16ErrsNoMoreThanThePlainFormula) {
  const Problem problem = make_problem(96, 200, 32, at::kBFloat16);
  const Expected expected = loop_formula(problem, 0);
  const Result result = run(problem, {32, 0});

  const at::Tensor hidden = problem.hidden.clone().requires_grad_();
  const at::Tensor weight = problem.weight.clone().requires_grad_();
  const at::Tensor plain = at::cross_entropy_loss(at::mm(hidden, weight.t()).to(at::kFloat), problem.labels,
                                                  /*weight=*/{}, at::Reduction::Sum);
  plain.backward();
  EXPECT_EQ(result.grad_weight.scalar_type(), at::kBFloat16);
  EXPECT_LE(std::abs(result.loss - expected.loss), 1e-5 * expected.loss);  // logits are fp32
  EXPECT_LE(error(result.grad_hidden, expected.grad_hidden), error(hidden.grad(), expected.grad_hidden));
  EXPECT_LE(error(result.grad_weight, expected.grad_weight), error(weight.grad(), expected.grad_weight));
  EXPECT_LE(error(result.grad_weight, expected.grad_weight), 0x1p-8);  // rounding of the result alone
}

TEST(LinearCrossEntropy, LargeLogitsLoseNothing) {
  Problem problem = make_problem(8, 50, 4, at::kFloat);
  problem.hidden.mul_(300);  // probabilities of most labels underflow in fp32
  const Problem wide{problem.hidden.to(at::kDouble), problem.weight.to(at::kDouble), problem.labels};
  const at::Tensor logits = at::mm(wide.hidden, wide.weight.t());
  const double expected =
      at::cross_entropy_loss(logits, problem.labels, /*weight=*/{}, at::Reduction::Sum).item<double>();
  EXPECT_LE(std::abs(run(problem, {3, 0}).loss - expected), 1e-6 * expected);
}

TEST(LinearCrossEntropy, GradientScalesWithWhatFollows) {
  const Problem problem = make_problem(9, 13, 5, at::kDouble);
  const Result one = run(problem, {4, 0.1}), quarter = run(problem, {4, 0.1}, 0.25);
  EXPECT_TRUE(at::equal(one.grad_weight * 0.25, quarter.grad_weight));
  EXPECT_TRUE(at::equal(one.grad_hidden * 0.25, quarter.grad_hidden));
}

TEST(LinearCrossEntropy, RowsWithoutALabelChangeNothing) {
  const Problem problem = make_problem(12, 17, 6, at::kFloat);
  Problem padded = problem;
  const at::Tensor padding = at::full({7, 6}, 1e3, at::kFloat);
  padded.hidden = at::cat({problem.hidden, padding});
  padded.labels = at::cat({problem.labels, at::full({7}, kNoLabel, at::kLong)});
  const Result without = run(problem, {64, 1e-2}), with = run(padded, {64, 1e-2});
  EXPECT_EQ(with.count, without.count);
  EXPECT_DOUBLE_EQ(with.loss, without.loss);
  EXPECT_LE(error(with.grad_weight, without.grad_weight.to(at::kDouble)), 1e-6);
  EXPECT_EQ(with.grad_hidden.narrow(0, 12, 7).abs().max().item<float>(), 0.0F);
}

TEST(LinearCrossEntropy, AllLabelsMaskedGivesZeroes) {
  Problem problem = make_problem(5, 7, 3, at::kFloat);
  problem.labels.fill_(kNoLabel);
  const Result result = run(problem, {2, 0.1});
  EXPECT_EQ(result.loss, 0.0);
  EXPECT_EQ(result.count, 0);
  EXPECT_EQ(result.grad_weight.abs().max().item<float>(), 0.0F);
}

TEST(LinearCrossEntropy, NumericalGradient) {
  const Problem problem = make_problem(6, 9, 4, at::kDouble);
  const LossConfig config{4, 0.05};
  const Result result = run(problem, config);
  const auto value = [&] {
    return linear_cross_entropy(problem.hidden, problem.weight, problem.labels, config).loss_sum.item<double>();
  };
  for (const auto& [tensor, gradient] :
       {std::pair(problem.hidden, result.grad_hidden), std::pair(problem.weight, result.grad_weight)}) {
    double* data = tensor.data_ptr<double>();
    for (int64_t i = 0; i < tensor.numel(); ++i) {
      const double kept = data[i], step = 1e-5;
      data[i] = kept + step;
      const double above = value();
      data[i] = kept - step;
      const double below = value();
      data[i] = kept;
      EXPECT_LE(std::abs((above - below) / (2 * step) - gradient.flatten()[i].item<double>()), 1e-8) << i;
    }
  }
}

TEST(LinearCrossEntropy, OnlyWhatNeedsAGradientGetsOne) {
  const Problem problem = make_problem(6, 9, 4, at::kFloat);
  const at::Tensor hidden = problem.hidden.clone().requires_grad_();
  linear_cross_entropy(hidden, problem.weight, problem.labels, {4, 0}).loss_sum.backward();
  EXPECT_TRUE(hidden.grad().defined());
  EXPECT_FALSE(problem.weight.grad().defined());
  EXPECT_FALSE(linear_cross_entropy(problem.hidden, problem.weight, problem.labels, {4, 0}).loss_sum.requires_grad());
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(linear_cross_entropy(hidden, problem.weight, problem.labels, {4, 0}).loss_sum.requires_grad());
}

TEST(LinearCrossEntropy, SecondBackwardIsRefused) {
  const Problem problem = make_problem(6, 9, 4, at::kFloat);
  const at::Tensor hidden = problem.hidden.clone().requires_grad_();
  const at::Tensor loss = linear_cross_entropy(hidden, problem.weight, problem.labels, {4, 0}).loss_sum;
  loss.backward({}, /*retain_graph=*/true);
  EXPECT_THROW(loss.backward(), Error);
}

TEST(LinearCrossEntropy, WrongArgumentsAreNamed) {
  Problem problem = make_problem(6, 9, 4, at::kFloat);
  problem.labels[2] = 9;
  EXPECT_THROW(run(problem, {4, 0}), Error);
  problem.labels[2] = -1;
  EXPECT_THROW(run(problem, {4, 0}), Error);
  problem.labels = problem.labels.to(at::kInt);
  EXPECT_THROW(run(problem, {4, 0}), Error);
}

class LinearCrossEntropyGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no GPU";
  }
};

TEST_F(LinearCrossEntropyGpu, Bfloat16ErrsNoMoreThanThePlainFormula) {
  for (const int64_t vocabulary : {200, 201}) {
    for (const int64_t chunk : {32, 96}) {  // three parts and one
      const Problem problem = make_problem(96, vocabulary, 32, at::kBFloat16);
      const Problem on_gpu{problem.hidden.cuda(), problem.weight.cuda(), problem.labels.cuda()};
      const Expected expected = loop_formula(problem, 1e-3);
      const Result result = run(on_gpu, {chunk, 1e-3}, 0.5);
      const at::Tensor hidden = problem.hidden.clone().requires_grad_(),
                       weight = problem.weight.clone().requires_grad_();
      const at::Tensor logits = at::mm(hidden, weight.t()).to(at::kFloat);
      const at::Tensor with_label = (problem.labels != kNoLabel).to(at::kFloat);
      const at::Tensor nll = at::cross_entropy_loss(logits, problem.labels, /*weight=*/{}, at::Reduction::Sum);
      (nll + (logits.logsumexp(1).square() * with_label).sum() * 1e-3).mul(0.5).backward();
      EXPECT_LE(std::abs(result.loss - expected.loss), 1e-5 * expected.loss);
      EXPECT_LE(error(result.grad_hidden.cpu(), expected.grad_hidden * 0.5),
                2 * error(hidden.grad(), expected.grad_hidden * 0.5));
      EXPECT_LE(error(result.grad_weight.cpu(), expected.grad_weight * 0.5),
                2 * error(weight.grad(), expected.grad_weight * 0.5));
    }
  }
}

TEST_F(LinearCrossEntropyGpu, LogProbsEqualTheCpus) {
  const Problem problem = make_problem(21, 33, 8, at::kBFloat16);
  const at::Tensor expected = token_log_probs(problem.hidden, problem.weight, problem.labels, 4);
  const at::Tensor actual =
      token_log_probs(problem.hidden.cuda(), problem.weight.cuda(), problem.labels.cuda(), 4).cpu();
  EXPECT_TRUE(at::allclose(actual, expected, 1e-5, 1e-5, /*equal_nan=*/true));
}

TEST(ChunkTokens, ZeroGoesByTheDevice) {
  EXPECT_EQ(chunk_tokens({}, 32000, /*on_gpu=*/true), 4096);
  EXPECT_EQ(chunk_tokens({}, 128256, /*on_gpu=*/true), 1024);
  EXPECT_EQ(chunk_tokens({}, 32000, /*on_gpu=*/false), 512);
  EXPECT_EQ(chunk_tokens({100, 0}, 32000, /*on_gpu=*/true), 100);
}

TEST(TokenLogProbs, EqualTheLoopFormula) {
  const Problem problem = make_problem(21, 33, 8, at::kFloat);
  const at::Tensor log_probs = token_log_probs(problem.hidden, problem.weight, problem.labels, 4);
  EXPECT_EQ(log_probs.scalar_type(), at::kFloat);
  double sum = 0;
  for (int64_t t = 0; t < 21; ++t) {
    const bool has_label = problem.labels[t].item<int64_t>() != kNoLabel;
    EXPECT_EQ(std::isnan(log_probs[t].item<float>()), !has_label) << t;
    if (has_label) sum += log_probs[t].item<float>();
  }
  const Expected expected = loop_formula(problem, 0);
  EXPECT_LE(std::abs(-sum - expected.nll), 1e-6 * expected.nll);
}

}  // namespace
}  // namespace dga

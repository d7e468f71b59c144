#include "decode/sampling.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "util/error.h"

namespace dga {
namespace {

at::Tensor logits_of(const std::vector<double>& probabilities) {
  return at::log(at::tensor(probabilities)).to(at::kFloat) + 3.0;
}

void expect_distribution(const std::vector<double>& actual, const std::vector<double>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 1e-6) << "token " << i;
}

const std::vector<double> kProbabilities{0.1, 0.5, 0.15, 0.25};

TEST(Sampling, PlainDistributionIsTheSoftmax) {
  expect_distribution(sampling_distribution(logits_of(kProbabilities), {}), kProbabilities);
}

TEST(Sampling, TemperatureTakesARoot) {
  const double sum = 0.1 * 0.1 + 0.5 * 0.5 + 0.15 * 0.15 + 0.25 * 0.25;
  expect_distribution(sampling_distribution(logits_of(kProbabilities), {.temperature = 0.5}),
                      {0.01 / sum, 0.25 / sum, 0.0225 / sum, 0.0625 / sum});
}

TEST(Sampling, TemperatureZeroIsGreedyWithTiesToTheLowerId) {
  expect_distribution(sampling_distribution(logits_of(kProbabilities), {.temperature = 0}), {0, 1, 0, 0});
  expect_distribution(sampling_distribution(at::tensor({1.0F, 2.0F, 2.0F}), {.temperature = 0}), {0, 1, 0});
}

TEST(Sampling, TopKKeepsTheMostProbable) {
  expect_distribution(sampling_distribution(logits_of(kProbabilities), {.top_k = 2}), {0, 2.0 / 3, 0, 1.0 / 3});
  expect_distribution(sampling_distribution(logits_of(kProbabilities), {.top_k = 99}), kProbabilities);
  expect_distribution(sampling_distribution(at::tensor({1.0F, 1.0F, 1.0F}), {.top_k = 1}), {1, 0, 0});
}

TEST(Sampling, TopPKeepsTheTokenThatCrossesTheBound) {
  const auto nucleus = [](double top_p) { return sampling_distribution(logits_of(kProbabilities), {.top_p = top_p}); };
  expect_distribution(nucleus(0.01), {0, 1, 0, 0});
  expect_distribution(nucleus(0.49), {0, 1, 0, 0});
  expect_distribution(nucleus(0.51), {0, 2.0 / 3, 0, 1.0 / 3});
  expect_distribution(nucleus(0.80), {0, 0.5 / 0.9, 0.15 / 0.9, 0.25 / 0.9});
  expect_distribution(nucleus(0.95), kProbabilities);
}

TEST(Sampling, TopPAppliesToWhatTopKLeft) {
  // Of 0.5 and 0.25, renormalised 2/3 and 1/3, the first alone reaches 0.6.
  expect_distribution(sampling_distribution(logits_of(kProbabilities), {.top_p = 0.6, .top_k = 2}), {0, 1, 0, 0});
}

TEST(Sampling, DrawsFollowTheDistributionAndTheSeed) {
  const at::Tensor logits = logits_of(kProbabilities);
  constexpr int kDraws = 4000;
  std::vector<double> counts(4, 0.0);
  int differ = 0;
  for (int step = 0; step < kDraws; ++step) {
    const int64_t token = sample_token(logits, {.seed = 5}, step);
    ++counts[token];
    EXPECT_EQ(token, sample_token(logits, {.seed = 5}, step));
    differ += token != sample_token(logits, {.seed = 6}, step);
  }
  for (size_t i = 0; i < 4; ++i) {
    const double deviation = std::sqrt(kProbabilities[i] * (1 - kProbabilities[i]) / kDraws);
    EXPECT_NEAR(counts[i] / kDraws, kProbabilities[i], 4 * deviation) << "token " << i;
  }
  EXPECT_GT(differ, kDraws / 2);
}

TEST(Sampling, FilteredTokensAreNeverDrawn) {
  const at::Tensor logits = logits_of(kProbabilities);
  for (int step = 0; step < 200; ++step) EXPECT_EQ(sample_token(logits, {.top_k = 1}, step), 1);
}

TEST(Sampling, OptionsOutOfRangeAreUsageErrors) {
  const auto code_of = [](const SamplingOptions& options) {
    try {
      check_sampling(options);
    } catch (const Error& error) {
      return error.code();
    }
    return ExitCode::ok;
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const SamplingOptions& bad :
       {SamplingOptions{.temperature = -1}, SamplingOptions{.temperature = nan}, SamplingOptions{.top_p = 0},
        SamplingOptions{.top_p = 1.1}, SamplingOptions{.top_p = nan}, SamplingOptions{.top_k = -1}}) {
    EXPECT_EQ(code_of(bad), ExitCode::usage);
  }
  EXPECT_EQ(code_of({.temperature = 0, .top_p = 1, .top_k = 0}), ExitCode::ok);
}

TEST(Sampling, LogitsThatAreNoNumbersAreRefused) {
  EXPECT_THROW(sample_token(at::tensor({1.0F, std::numeric_limits<float>::quiet_NaN()}), {}, 0), Error);
}

}  // namespace
}  // namespace dga

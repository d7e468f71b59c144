#include "eval/nll_sums.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "util/random.h"

namespace dga {
namespace {

TEST(NllSums, SurviveJsonExactly) {
  const std::vector<NllSum> sums = {{0.1 + 0.2, 3}, {1e-17, 0}, {12345.678901234567, 1000000}};
  const std::vector<NllSum> back = sums_of(nlohmann::json::parse(sums_json(sums).dump()));
  ASSERT_EQ(back.size(), sums.size());
  for (size_t i = 0; i < sums.size(); ++i) {
    EXPECT_EQ(back[i].nll, sums[i].nll);
    EXPECT_EQ(back[i].tokens, sums[i].tokens);
  }
}

TEST(RatioInterval, OfEqualClustersIsThatOfTheirMeans) {
  // Means 1, 2, 3, 4 of 10 tokens each: 1.96 * sqrt(5/3) / sqrt(4).
  const auto half = ratio_ci95({{10, 10}, {20, 10}, {0, 0}, {30, 10}, {40, 10}});
  ASSERT_TRUE(half);
  EXPECT_NEAR(*half, 1.959964 * std::sqrt(5.0 / 3.0) / 2.0, 1e-6);
  EXPECT_EQ(ratio_ci95({{10, 10}, {0, 0}}), std::nullopt);
}

TEST(RatioInterval, CoversTheTruthAboutAsOftenAsItSays) {
  // Clusters of 1 to 20 tokens that share an effect; the mean over all tokens is 1 in truth.
  const CounterRng rng({17});
  uint64_t counter = 0;
  int64_t covered = 0;
  constexpr int64_t kTrials = 2000;
  for (int64_t trial = 0; trial < kTrials; ++trial) {
    std::vector<NllSum> clusters;
    NllSum all;
    for (int i = 0; i < 60; ++i) {
      const auto tokens = static_cast<int64_t>(1 + rng.bits(counter++) % 20);
      const double effect = rng.uniform(counter++) * 2.0;
      clusters.push_back({effect * static_cast<double>(tokens), tokens});
      all.nll += clusters.back().nll;
      all.tokens += tokens;
    }
    covered += std::abs(all.mean() - 1.0) <= *ratio_ci95(clusters) ? 1 : 0;
  }
  const double share = static_cast<double>(covered) / kTrials;
  EXPECT_GT(share, 0.92);
  EXPECT_LT(share, 0.97);
}

TEST(WilsonInterval, HasThePublishedNumbers) {
  // Newcombe 1998, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
  const auto expect = [](int64_t matches, int64_t samples, double low, double high) {
    EXPECT_NEAR(wilson_ci95(matches, samples).low, low, 5e-5) << matches;
    EXPECT_NEAR(wilson_ci95(matches, samples).high, high, 5e-5) << matches;
  };
  expect(81, 263, 0.2553, 0.3662);
  expect(15, 148, 0.0624, 0.1605);
  expect(0, 20, 0.0, 0.1611);
  expect(1, 29, 0.0061, 0.1718);
  expect(20, 20, 1 - 0.1611, 1.0);
}

}  // namespace
}  // namespace dga

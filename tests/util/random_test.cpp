#include "util/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "util/error.h"

namespace dga {
namespace {

// An empty key starts the counter one step after seed 0 of SplitMix64, whose outputs are published.
TEST(CounterRngTest, FollowsSplitMix64) {
  const CounterRng rng({});
  EXPECT_EQ(rng.bits(0), 0x6e789e6aa1b965f4u);
  EXPECT_EQ(rng.bits(1), 0x06c45d188009454fu);
  EXPECT_EQ(rng.bits(2), 0xf88bb8a8724c81ecu);
}

// Data orders and initial weights follow from these, so they must never change.
TEST(CounterRngTest, PinnedValues) {
  const CounterRng rng({1234, 5});
  EXPECT_EQ(rng.bits(0), 883745329621156387u);
  EXPECT_EQ(rng.uniform(7), 0.981114881754731);
  EXPECT_EQ(rng.permutation(8), (std::vector<int64_t>{1, 4, 2, 0, 7, 5, 6, 3}));
  EXPECT_EQ(rng.sample(100, 5), (std::vector<int64_t>{4, 16, 22, 27, 85}));
  EXPECT_EQ(key_of("slim_wikipedia"), 1845658709365766555u);
}

TEST(CounterRngTest, KeysAndCountersMatter) {
  std::set<uint64_t> seen;
  for (const CounterRng& rng :
       {CounterRng({}), CounterRng({0}), CounterRng({0, 0}), CounterRng({1}), CounterRng({1, 2}), CounterRng({2, 1}),
        CounterRng({key_of("a")}), CounterRng({key_of("b")})}) {
    for (uint64_t i = 0; i < 100; ++i) seen.insert(rng.bits(i));
  }
  EXPECT_EQ(seen.size(), 800u);
  EXPECT_NE(key_of("ab"), key_of("ba"));
  EXPECT_NE(key_of(""), key_of(std::string_view("\0", 1)));
}

TEST(CounterRngTest, UniformFillsTheInterval) {
  const CounterRng rng({3});
  double sum = 0, low = 1, high = 0;
  constexpr int kCount = 100000;
  for (uint64_t i = 0; i < kCount; ++i) {
    const double u = rng.uniform(i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    low = std::min(low, u);
    high = std::max(high, u);
  }
  EXPECT_NEAR(sum / kCount, 0.5, 5 * 0.2887 / std::sqrt(kCount));  // five standard errors
  EXPECT_LT(low, 1e-3);
  EXPECT_GT(high, 1 - 1e-3);
}

TEST(CounterRngTest, PermutationHoldsEveryPositionOnce) {
  for (const int64_t n : {0, 1, 2, 3, 17, 1000}) {
    std::vector<int64_t> order = CounterRng({9, static_cast<uint64_t>(n)}).permutation(n);
    std::sort(order.begin(), order.end());
    ASSERT_EQ(static_cast<int64_t>(order.size()), n);
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(order[static_cast<size_t>(i)], i);
  }
}

TEST(CounterRngTest, PermutationsAreUniform) {
  std::map<std::vector<int64_t>, int> counts;
  constexpr int kRuns = 6000;
  for (uint64_t seed = 0; seed < kRuns; ++seed) ++counts[CounterRng({seed}).permutation(3)];
  ASSERT_EQ(counts.size(), 6u);
  for (const auto& [order, count] : counts) EXPECT_NEAR(count, kRuns / 6.0, 5 * std::sqrt(kRuns * 5.0 / 36.0));
}

TEST(CounterRngTest, SamplesAreSortedDistinctAndInRange) {
  for (const auto& [n, count] : {std::pair<int64_t, int64_t>{0, 0}, {1, 0}, {1, 1}, {10, 10}, {1000, 3}, {1000, 999}}) {
    const std::vector<int64_t> sample = CounterRng({static_cast<uint64_t>(n)}).sample(n, count);
    ASSERT_EQ(static_cast<int64_t>(sample.size()), count);
    EXPECT_TRUE(std::adjacent_find(sample.begin(), sample.end(), std::greater_equal<>()) == sample.end());
    if (count > 0) {
      EXPECT_GE(sample.front(), 0);
      EXPECT_LT(sample.back(), n);
    }
  }
  EXPECT_THROW(CounterRng({}).sample(3, 4), Error);
  EXPECT_THROW(CounterRng({}).sample(3, -1), Error);
}

TEST(CounterRngTest, SamplesAreUniform) {
  std::vector<int> counts(10);
  constexpr int kRuns = 5000;
  for (uint64_t seed = 0; seed < kRuns; ++seed) {
    for (const int64_t i : CounterRng({seed}).sample(10, 3)) ++counts[static_cast<size_t>(i)];
  }
  for (const int count : counts) EXPECT_NEAR(count, kRuns * 0.3, 5 * std::sqrt(kRuns * 0.3 * 0.7));
}

}  // namespace
}  // namespace dga

#include "kernels/grouping_oracle.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace dga::kernels::testing {
namespace {

Rows random_rows(int64_t count, int64_t width, std::mt19937& random) {
  std::normal_distribution<double> normal;
  Rows rows(count, std::vector<double>(width));
  for (auto& row : rows) {
    for (double& value : row) value = normal(random);
  }
  return rows;
}

double objective(const Rows& keys, const Rows& values, const std::vector<double>& query, const Rows& grads,
                 double grad_entropy) {
  const OraclePool pool = oracle_pool(keys, values, query, 0.5);
  double sum = grad_entropy * pool.entropy;
  for (size_t d = 0; d < pool.key.size(); ++d) sum += grads[0][d] * pool.key[d] + grads[1][d] * pool.value[d];
  return sum;
}

TEST(GroupingOracle, GradientsAgreeWithCentralDifferences) {
  std::mt19937 random(3);
  Rows keys = random_rows(5, 4, random), values = random_rows(5, 4, random), query = random_rows(1, 4, random);
  const Rows grads = random_rows(2, 4, random);
  const OraclePoolGradient gradient = oracle_pool_gradient(keys, values, query[0], 0.5, grads[0], grads[1], 0.7);
  const auto check = [&](double& variable, double expected, const char* what) {
    const double value = variable, step = 1e-5;
    variable = value + step;
    const double above = objective(keys, values, query[0], grads, 0.7);
    variable = value - step;
    const double below = objective(keys, values, query[0], grads, 0.7);
    variable = value;
    EXPECT_NEAR((above - below) / (2 * step), expected, 1e-8) << what;
  };
  for (size_t i = 0; i < keys.size(); ++i) {
    for (size_t d = 0; d < 4; ++d) {
      check(keys[i][d], gradient.keys[i][d], "key");
      check(values[i][d], gradient.values[i][d], "value");
    }
  }
  for (size_t d = 0; d < 4; ++d) check(query[0][d], gradient.query[d], "query");
}

// Written out by hand: 8 tokens, focal 2 and 5, groups of 2 with window 1.
TEST(GroupingOracle, ListsOfASmallSequence) {
  OracleSettings settings;
  settings.group_size = 2;
  settings.local_window = 1;
  const std::vector<bool> focal = {false, false, true, false, false, true, false, false};
  const OracleLists lists = oracle_lists(focal, {0}, settings);
  EXPECT_EQ(lists.second, (std::vector<int64_t>{0, 1, 3, 4, 6, 7}));
  // Closing times: group {0, 1} at 2, {3, 4} at 5, {6, 7} at 8; focal tokens come first at equal time.
  const std::vector<std::vector<int64_t>> members = {{2}, {0, 1}, {5}, {3, 4}, {6, 7}};
  ASSERT_EQ(lists.compact.size(), members.size());
  for (size_t e = 0; e < members.size(); ++e) EXPECT_EQ(lists.compact[e].members, members[e]) << e;
  EXPECT_TRUE(oracle_sees_entry(lists, 2, lists.compact[1]));
  EXPECT_FALSE(oracle_sees_entry(lists, 4, lists.compact[3]));
  EXPECT_TRUE(oracle_sees_token(lists, settings, 4, 3));
  EXPECT_FALSE(oracle_sees_token(lists, settings, 5, 3));
  EXPECT_FALSE(oracle_sees_token(lists, settings, 3, 4));
}

}  // namespace
}  // namespace dga::kernels::testing

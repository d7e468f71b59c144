#include "train/outlier_filter.h"

#include <gtest/gtest.h>

namespace dga {
namespace {

OutlierConfig config(double factor, int64_t window, int64_t min_steps) {
  OutlierConfig settings;
  settings.factor = factor;
  settings.window = window;
  settings.min_steps = min_steps;
  return settings;
}

TEST(OutlierFilter, OffNeverSkips) {
  OutlierFilter filter{OutlierConfig()};
  for (const double norm : {1.0, 1.0, 1e30}) EXPECT_FALSE(filter.is_outlier(norm));
  EXPECT_TRUE(filter.state().norms.empty());
}

TEST(OutlierFilter, JudgesByTheMedianOfStepsBefore) {
  OutlierFilter filter(config(3, 5, 3));
  EXPECT_FALSE(filter.is_outlier(1));
  EXPECT_FALSE(filter.is_outlier(100));  // too few steps known
  EXPECT_FALSE(filter.is_outlier(2));
  EXPECT_EQ(filter.median(), 2);
  EXPECT_FALSE(filter.is_outlier(6));  // not above 3 * 2
  EXPECT_EQ(filter.median(), 6);       // of 1, 2, 6, 100: the upper one
  EXPECT_TRUE(filter.is_outlier(18.1));
  EXPECT_EQ(filter.state().skipped, 1);
}

TEST(OutlierFilter, AcceptsALastingChangeAfterHalfAWindow) {
  OutlierFilter filter(config(2, 6, 3));
  for (int i = 0; i < 6; ++i) filter.is_outlier(1);
  int skipped = 0;
  for (int i = 0; i < 6; ++i) skipped += filter.is_outlier(10) ? 1 : 0;
  EXPECT_EQ(skipped, 3);
}

TEST(OutlierFilter, RestoredGoesOnAlike) {
  OutlierFilter filter(config(1.5, 4, 2)), resumed(config(1.5, 4, 2));
  for (const double norm : {1.0, 2.0, 1.5, 9.0, 1.0}) filter.is_outlier(norm);
  resumed.restore(filter.state());
  for (const double norm : {2.0, 3.0, 4.0, 1.0, 8.0}) EXPECT_EQ(resumed.is_outlier(norm), filter.is_outlier(norm));
  EXPECT_EQ(resumed.state().skipped, filter.state().skipped);
  OutlierFilter shorter(config(1.5, 2, 2));
  shorter.restore(filter.state());
  EXPECT_EQ(shorter.state().norms, (std::vector<double>{1.0, 8.0}));
}

}  // namespace
}  // namespace dga

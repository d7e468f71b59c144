#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace dga {
namespace {

ScheduleConfig schedule(ScheduleKind kind, int64_t warmup, double final_ratio, int64_t decay = 0) {
  return {kind, warmup, final_ratio, decay};
}

TEST(Schedule, WarmUpRisesFromTheFirstStep) {
  for (const ScheduleKind kind :
       {ScheduleKind::constant, ScheduleKind::linear, ScheduleKind::cosine, ScheduleKind::wsd}) {
    const ScheduleConfig config = schedule(kind, 4, 0.1);
    EXPECT_DOUBLE_EQ(learning_rate(config, 2.0, 1, 100), 0.5);
    EXPECT_DOUBLE_EQ(learning_rate(config, 2.0, 3, 100), 1.5);
    EXPECT_DOUBLE_EQ(learning_rate(config, 2.0, 4, 100), 2.0);
    EXPECT_LE(learning_rate(config, 2.0, 5, 100), 2.0);
  }
}

TEST(Schedule, Constant) {
  const ScheduleConfig config = schedule(ScheduleKind::constant, 0, 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(config, 3.0, 1, 10), 3.0);
  EXPECT_DOUBLE_EQ(learning_rate(config, 3.0, 10, 10), 3.0);
  EXPECT_DOUBLE_EQ(learning_rate(config, 3.0, 1000, 10), 3.0);
}

TEST(Schedule, LinearReachesTheFinalRatioAtTheLastStep) {
  const ScheduleConfig config = schedule(ScheduleKind::linear, 10, 0.2);
  EXPECT_DOUBLE_EQ(learning_rate(config, 1.0, 10, 110), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(config, 1.0, 60, 110), 0.6);
  EXPECT_DOUBLE_EQ(learning_rate(config, 1.0, 110, 110), 0.2);
  EXPECT_DOUBLE_EQ(learning_rate(config, 1.0, 500, 110), 0.2);
}

TEST(Schedule, CosineReachesTheFinalRatioAtTheLastStep) {
  const ScheduleConfig config = schedule(ScheduleKind::cosine, 0, 0.1);
  EXPECT_NEAR(learning_rate(config, 1.0, 50, 100), 0.55, 1e-15);
  EXPECT_NEAR(learning_rate(config, 1.0, 25, 100), 0.1 + 0.9 * 0.5 * (1 + std::sqrt(0.5)), 1e-15);
  EXPECT_NEAR(learning_rate(config, 1.0, 100, 100), 0.1, 1e-15);
}

TEST(Schedule, DecayStepsEndTheFallEarlier) {
  const ScheduleConfig config = schedule(ScheduleKind::linear, 10, 0.0, 20);
  EXPECT_DOUBLE_EQ(learning_rate(config, 1.0, 20, 1000), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(config, 1.0, 30, 1000), 0.0);
  EXPECT_DOUBLE_EQ(learning_rate(config, 1.0, 31, 1000), 0.0);
}

TEST(Schedule, WsdIsFlatThenFallsAtTheEnd) {
  const ScheduleConfig config = schedule(ScheduleKind::wsd, 5, 0.0, 20);
  EXPECT_DOUBLE_EQ(learning_rate(config, 1.0, 5, 100), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(config, 1.0, 80, 100), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(config, 1.0, 81, 100), 0.95);
  EXPECT_DOUBLE_EQ(learning_rate(config, 1.0, 100, 100), 0.0);
  EXPECT_DOUBLE_EQ(learning_rate(schedule(ScheduleKind::wsd, 0, 0.5), 1.0, 95, 100), 0.75);  // the last tenth
}

TEST(Schedule, WarmUpAsLongAsTheRunHasNoFall) {
  for (const ScheduleKind kind : {ScheduleKind::linear, ScheduleKind::cosine, ScheduleKind::wsd}) {
    EXPECT_DOUBLE_EQ(learning_rate(schedule(kind, 8, 0.1), 1.0, 8, 8), 1.0);
    EXPECT_TRUE(std::isfinite(learning_rate(schedule(kind, 80, 0.1), 1.0, 8, 8)));
  }
}

}  // namespace
}  // namespace dga

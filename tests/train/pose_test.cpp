#include "train/pose.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "support/tensor_compare.h"
#include "tiny_run.h"

namespace dga {
namespace {

TEST(Pose, PositionsRiseWithTheSkipsOfTheirChunks) {
  std::set<int64_t> firsts, lasts, skips;
  for (int64_t row = 0; row < 400; ++row) {
    const std::vector<int64_t> positions = pose_positions({.target_length = 100, .chunks = 3}, 16, 5, row);
    ASSERT_EQ(positions.size(), 16U);
    EXPECT_EQ(positions.front(), 0);
    EXPECT_LT(positions.back(), 100);
    int64_t jumps = 0;
    for (size_t i = 1; i < positions.size(); ++i) {
      ASSERT_GT(positions[i], positions[i - 1]);
      if (positions[i] != positions[i - 1] + 1) {
        ++jumps;
        firsts.insert(static_cast<int64_t>(i));
        skips.insert(positions[i] - positions[i - 1] - 1);
      }
    }
    EXPECT_LE(jumps, 2);
    lasts.insert(positions.back());
  }
  EXPECT_EQ(firsts.size(), 15U);  // cuts fall everywhere
  EXPECT_EQ(*lasts.rbegin(), 99);
  EXPECT_GT(lasts.size(), 40U);
  EXPECT_EQ(*skips.rbegin(), 84);  // up to 100 - 16
}

TEST(Pose, DependsOnSeedAndRowAlone) {
  const PoseConfig pose{.target_length = 1000, .chunks = 2};
  EXPECT_EQ(pose_positions(pose, 32, 1, 7), pose_positions(pose, 32, 1, 7));
  EXPECT_NE(pose_positions(pose, 32, 1, 7), pose_positions(pose, 32, 1, 8));
  EXPECT_NE(pose_positions(pose, 32, 1, 7), pose_positions(pose, 32, 2, 7));
}

TEST(Pose, TheModelRotatesByThePositionsOfTheLayout) {
  const TinyRun run;
  const auto trainer = run.trainer();
  const Llama& model = trainer->model();
  const at::NoGradGuard no_grad;
  const at::Tensor tokens = at::randint(0, 64, {1, 8}, at::kLong);
  SequenceLayout layout = SequenceLayout::whole_rows(1, 8);
  const at::Tensor plain = model.forward(tokens, layout);
  // RoPE sees distances alone: a constant shift changes nothing, a gap does for the tokens behind it.
  layout.positions = {{40, 41, 42, 43, 44, 45, 46, 47}};
  EXPECT_TRUE(testing::compare(model.forward(tokens, layout), plain, 1e-4));
  layout.positions = {{0, 1, 2, 3, 90, 91, 92, 93}};
  const at::Tensor skipped = model.forward(tokens, layout);
  EXPECT_TRUE(testing::compare(skipped.slice(1, 0, 4), plain.slice(1, 0, 4), 1e-5));
  EXPECT_GT((skipped - plain).slice(1, 4).abs().max().item<double>(), 1e-2);
}

TEST(Pose, ChangesTrainingAndSurvivesAResume) {
  const TinyRun with, without, resumed;
  const std::vector<std::string> settings = {"train.pose.target_length=256"};
  with.trainer(settings)->run();
  without.trainer()->run();
  EXPECT_NE(with.metrics().back().at("loss"), without.metrics().back().at("loss"));
  {
    const auto trainer = resumed.trainer(settings);
    for (int step = 0; step < 3; ++step) trainer->train_step();
    trainer->save();
    trainer->finish_saving();
  }
  resumed.trainer(settings)->run();
  EXPECT_EQ(resumed.metrics().back().at("loss"), with.metrics().back().at("loss"));
}

}  // namespace
}  // namespace dga

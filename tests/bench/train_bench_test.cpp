#include "bench/train_bench.h"

#include <gtest/gtest.h>

#include <numeric>

#include "train/tiny_run.h"

namespace dga {
namespace {

TEST(TrainBench, MeasuresStepsOfAConfigAndLeavesNothingBehind) {
  const TinyRun tiny;
  const LoadedRun run = tiny.load({"train.global_batch_size=4", "train.micro_batch_size=2"});
  const TrainBenchResult result =
      bench_train(run, {.steps = 5, .warmup_steps = 2, .profile = false}, *make_single_communicator());
  ASSERT_EQ(result.records.size(), 5U);
  EXPECT_EQ(result.records.front().step, 3);
  EXPECT_LT(result.records.back().loss, result.records.front().loss);
  double tokens = 0, seconds = 0;
  for (const StepRecord& record : result.records) {
    const double phases = std::accumulate(record.phase_seconds.begin(), record.phase_seconds.end(), 0.0);
    EXPECT_NEAR(phases, record.seconds, 1e-6);
    for (const double phase : record.phase_seconds) EXPECT_GT(phase, 0);
    tokens += 4 * TinyRun::kContext;
    seconds += record.seconds;
  }
  EXPECT_DOUBLE_EQ(result.tokens_per_second(), tokens / seconds);
  EXPECT_GE(result.median_seconds(), result.records.front().seconds / 100);
  EXPECT_FALSE(result.mfu());             // fp32
  EXPECT_FALSE(result.predicted_memory);  // a CPU
  EXPECT_FALSE(std::filesystem::exists(tiny.run_folder()));

  const nlohmann::json json = nlohmann::json::parse(train_bench_json(result, "abc"));
  EXPECT_EQ(json["commit"], "abc");
  EXPECT_EQ(json["context_length"], TinyRun::kContext);
  EXPECT_EQ(json["losses"].size(), 5U);
  EXPECT_TRUE(json["phases_s"].contains("backward"));
  EXPECT_NE(train_bench_text(result).find("tokens/s"), std::string::npos);
}

TEST(TrainBench, TheMedianOfAnEvenNumberIsTheMeanOfTheMiddleTwo) {
  TrainBenchResult result;
  for (const double seconds : {4.0, 1.0, 3.0, 100.0}) {
    result.records.emplace_back();
    result.records.back().seconds = seconds;
    result.records.back().step_tokens = 27;
  }
  EXPECT_EQ(result.median_seconds(), 3.5);
  EXPECT_EQ(result.tokens_per_second(), 1.0);
}

}  // namespace
}  // namespace dga

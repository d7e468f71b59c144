#include "train/step_record.h"

#include <gtest/gtest.h>

#include "train/device_peak.h"

namespace dga {
namespace {

StepRecord example() {
  StepRecord record;
  record.step = 20;
  record.tokens = 2000;
  record.step_tokens = 100;
  record.labels = 99;
  record.loss = 5.1234;
  record.learning_rate = 3e-4;
  record.grad_norm = 1.234;
  record.seconds = 0.05;
  record.data_wait_ms = 1;
  record.flops = 1e12;
  record.memory_bytes = 1'200'000'000;
  return record;
}

TEST(MetricsLine, HoldsWhatReadersRelyOn) {
  const nlohmann::json line = metrics_line(example(), std::nullopt);
  EXPECT_EQ(line.at("step"), 20);
  EXPECT_EQ(line.at("tokens"), 2000);
  EXPECT_EQ(line.at("loss"), 5.1234);
  EXPECT_EQ(line.at("lr"), 3e-4);
  EXPECT_EQ(line.at("grad_norm"), 1.234);
  EXPECT_DOUBLE_EQ(line.at("tokens_per_s").get<double>(), 2000);
  EXPECT_EQ(line.at("data_wait_ms"), 1);
  for (const char* key : {"mfu", "skipped", "eval", "z_loss"}) EXPECT_FALSE(line.contains(key)) << key;
}

TEST(MetricsLine, HoldsMfuWhereThePeakIsKnown) {
  EXPECT_DOUBLE_EQ(metrics_line(example(), 100e12).at("mfu").get<double>(), 0.2);
}

TEST(ConsoleLine, ShowsTheStepAndTheInterval) {
  Interval interval;
  interval.add(example());
  StepRecord slow = example();
  slow.seconds = 0.15;
  slow.data_wait_ms = 19;
  interval.add(slow);
  EXPECT_EQ(console_line(example(), interval, {1000, 200}, std::nullopt),
            "step 20/1000  loss 5.1234  lr 3.00e-04  norm 1.23  1000 tokens/s  wait 10.0%  mem 1.20 GB  eta 3m20s");
  EXPECT_NE(console_line(example(), interval, {1000, 200}, 100e12).find("  mfu 10.0%  "), std::string::npos);
}

TEST(StatusBar, Fills) {
  EXPECT_EQ(status_bar(example(), {40, 5}), "[###############...............]  50%  step 20/40  loss 5.1234  eta 5s");
}

TEST(FormatDuration, PicksItsUnits) {
  EXPECT_EQ(format_duration(0.4), "0s");
  EXPECT_EQ(format_duration(59.4), "59s");
  EXPECT_EQ(format_duration(200), "3m20s");
  EXPECT_EQ(format_duration(7500), "2h05m");
  EXPECT_EQ(format_duration(86400 * 3 + 3600 * 4), "3d04h");
}

TEST(PeakFlops, GoesByTheDriversNames) {
  EXPECT_EQ(peak_flops("NVIDIA H100 80GB HBM3"), 989e12);
  EXPECT_EQ(peak_flops("NVIDIA H100 PCIe"), 756e12);
  EXPECT_EQ(peak_flops("NVIDIA H200"), 989e12);
  EXPECT_EQ(peak_flops("NVIDIA A100-SXM4-80GB"), 312e12);
  EXPECT_EQ(peak_flops("NVIDIA L40S"), 362e12);
  EXPECT_FALSE(peak_flops("cpu").has_value());
  EXPECT_FALSE(peak_flops("NVIDIA GeForce GTX 1080").has_value());
}

TEST(PeakMemory, OfThisProcessIsPlausible) {
  EXPECT_EQ(device_name(at::kCPU), "cpu");
  EXPECT_GT(peak_memory_bytes(at::kCPU), 10'000'000);
}

}  // namespace
}  // namespace dga

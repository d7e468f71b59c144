#include "bench/step_profile.h"

#include <gtest/gtest.h>

namespace dga {
namespace {

TEST(StepProfile, CountsGapsOnceAndSumsByClassAndName) {
  const uint64_t ms = 1'000'000;
  // Kernels at 1-3, 3-5 and 8-9 ms; a copy beside them at 4-7 ms; so 7-8 ms is idle.
  const StepProfile profile = summarize({{"sm90_xmma_gemm_bf16", 3 * ms, 5 * ms},
                                         {"nvjet_tst_256x128", 1 * ms, 3 * ms},
                                         {"void adamw_kernel<true>", 8 * ms, 9 * ms},
                                         {"Memcpy DtoH (Device -> Pinned)", 4 * ms, 7 * ms}});
  EXPECT_DOUBLE_EQ(profile.span_ms, 8);
  EXPECT_DOUBLE_EQ(profile.idle_ms, 1);
  ASSERT_EQ(profile.classes.size(), 3U);
  EXPECT_EQ(profile.classes[0].name, "products");
  EXPECT_DOUBLE_EQ(profile.classes[0].ms, 4);
  EXPECT_EQ(profile.classes[0].calls, 2);
  EXPECT_EQ(profile.classes[1].name, "copies and fills");
  EXPECT_EQ(profile.classes[2].name, "optimizer");
  ASSERT_EQ(profile.kernels.size(), 4U);
  EXPECT_EQ(profile.kernels[0].name, "Memcpy DtoH (Device -> Pinned)");
}

TEST(StepProfile, SaysBeforeWhatTheMainStreamWaited) {
  const uint64_t ms = 1'000'000;
  // The main stream: 0-4, 6-9, 10-12 and 15-16 ms. Copies at 3-6 and 13-15; nothing runs at 9-10 and 12-13.
  const StepProfile profile = summarize({{"gemm", 0, 4 * ms, 7},
                                         {"Memcpy HtoD", 3 * ms, 6 * ms, 9},
                                         {"attention", 6 * ms, 9 * ms, 7},
                                         {"gemm", 10 * ms, 12 * ms, 7},
                                         {"Memcpy HtoD", 13 * ms, 15 * ms, 9},
                                         {"attention", 15 * ms, 16 * ms, 7}});
  EXPECT_DOUBLE_EQ(profile.idle_ms, 2);
  ASSERT_EQ(profile.waits.size(), 1U);
  EXPECT_EQ(profile.waits[0].name, "attention");
  EXPECT_EQ(profile.waits[0].calls, 2);
  EXPECT_DOUBLE_EQ(profile.waits[0].ms, 4);
}

TEST(StepProfile, ACpuHasNoDeviceWork) {
  bool ran = false;
  const StepProfile profile = profile_step([&] { ran = true; });
  EXPECT_TRUE(ran);
  EXPECT_TRUE(profile.kernels.empty());
  EXPECT_EQ(profile.span_ms, 0);
}

}  // namespace
}  // namespace dga

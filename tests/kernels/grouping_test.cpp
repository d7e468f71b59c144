#include <gtest/gtest.h>

#include <cmath>
#include <iostream>

#include "kernels/common/device.h"
#include "kernels/grouping_case.h"

namespace dga::kernels::testing {
namespace {

#define SKIP_WITHOUT_DEVICE() \
  if (list_devices().devices.empty()) GTEST_SKIP() << list_devices().why_none

class GroupingGpu : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_DEVICE(); }
};

Errors check_case(const GroupingCase& c) {
  SCOPED_TRACE(c.text());
  GroupingRun run(c);
  run.run_select();
  run.run_order();
  run.run_forward();
  run.run_backward();
  DGA_CUDA_CHECK(cudaDeviceSynchronize());
  const auto oracle = oracle_of(run);
  check_select(run, oracle);
  if (::testing::Test::HasFailure()) return {};  // what follows would only repeat it
  check_order(run, oracle);
  Errors errors = check_forward(run, oracle);
  errors.merge(check_backward(run, oracle));
  check_guards(run);
  return errors;
}

/// Runs cases until one fails, and prints the worst errors.
class Cases {
 public:
  void run(const GroupingCase& c) {
    if (::testing::Test::HasFailure()) return;
    errors_.merge(check_case(c));
    ++count_;
  }
  ~Cases() { std::cout << "  " << count_ << " cases, " << errors_.text() << std::endl; }

 private:
  Errors errors_;
  int count_ = 0;
};

constexpr int64_t kGroupSizes[] = {1, 4, 16, 100};
constexpr int64_t kWindows[] = {0, 1, 64, 1024};
constexpr double kRatios[] = {0, 0.1, 0.5, 1};

GroupingCase one_row(int64_t length) {
  GroupingCase c;
  c.starts = {{0}};
  c.length = length;
  return c;
}

// All group sizes, windows and ratios at a length; what else differs goes round.
void run_sequence_cases(int64_t length) {
  Cases cases;
  uint32_t number = static_cast<uint32_t>(length);
  for (const int64_t group_size : kGroupSizes) {
    for (const int64_t window : kWindows) {
      for (const double ratio : kRatios) {
        GroupingCase c = one_row(length);
        c.settings.group_size = group_size;
        c.settings.local_window = window;
        c.settings.focal_ratio = ratio;
        c.settings.complementary = number % 5 != 0;
        c.group_heads = int64_t{1} << number % 4;
        c.kv_heads = 1 + number % 3 / 2;
        c.head_dim = number / 2 % 2 == 0 ? 128 : 64;
        c.pooling = number % 7 == 0 ? GroupPooling::mean : GroupPooling::last_query;
        c.entropy = number % 3 != 0;
        c.importance_levels = number % 2 == 0 ? 0 : 9;
        c.padding = number % 4 == 1 ? 5 : 0;
        c.heads_inside = number % 6 == 0;
        c.seed = ++number;
        cases.run(c);
      }
    }
  }
}

TEST_F(GroupingGpu, Length1) { run_sequence_cases(1); }
TEST_F(GroupingGpu, Length17) { run_sequence_cases(17); }
TEST_F(GroupingGpu, Length127) { run_sequence_cases(127); }
TEST_F(GroupingGpu, Length128) { run_sequence_cases(128); }
TEST_F(GroupingGpu, Length129) { run_sequence_cases(129); }
TEST_F(GroupingGpu, Length1000) { run_sequence_cases(1000); }

TEST_F(GroupingGpu, LongRows) {
  Cases cases;
  for (const int64_t window : {0, 1024}) {
    GroupingCase c = one_row(4161);
    c.kv_heads = 3;
    c.group_heads = 4;
    c.settings.local_window = window;
    c.padding = 7;
    cases.run(c);
    c.settings.group_size = 100;
    c.importance_levels = 3;
    cases.run(c);
    GroupingCase d = one_row(32768);
    d.settings.local_window = window;
    d.importance_levels = window == 0 ? 0 : 50;
    cases.run(d);
  }
  GroupingCase c = one_row(32768);
  c.kv_heads = 2;
  c.head_dim = 64;
  c.settings.group_size = 100;
  c.importance_levels = 1;  // all equal: the first tokens are focal
  cases.run(c);
}

TEST_F(GroupingGpu, PackedRows) {
  Cases cases;
  std::mt19937 random(11);
  for (int i = 0; i < 24; ++i) {
    GroupingCase c;
    c.length = i < 12 ? 300 : 2500;
    c.starts = {{0, 1, 2, 5}, {0}, {0, 31, 32, 64, 97}};
    // A row of many short sequences.
    std::vector<int64_t> many = {0};
    while (many.back() + 40 < c.length) many.push_back(many.back() + 1 + static_cast<int64_t>(random() % 39));
    c.starts.push_back(many);
    c.kv_heads = 1 + i % 2;
    c.group_heads = i % 3 == 0 ? 4 : 1;
    c.head_dim = i % 2 == 0 ? 64 : 128;
    c.settings.group_size = kGroupSizes[i % 4];
    c.settings.focal_ratio = kRatios[(i / 2) % 4];
    c.settings.local_window = kWindows[(i / 4) % 4];
    c.settings.complementary = i % 5 != 4;
    if (i % 3 == 2) {
      c.settings.rule = GroupingRule::block;
      c.settings.block_size = 1 + static_cast<int64_t>(random() % 70);
      c.settings.local_blocks = i % 4;
    }
    c.importance_levels = i % 2 == 0 ? 5 : 0;
    c.padding = i % 4;
    c.seed = static_cast<uint32_t>(100 + i);
    cases.run(c);
  }
}

TEST_F(GroupingGpu, BlockRule) {
  Cases cases;
  uint32_t number = 0;
  for (const int64_t length : {1, 17, 127, 128, 129, 1000, 4161, 32768}) {
    for (const int64_t group_size : {1, 4, 16, 100}) {
      for (const double ratio : kRatios) {
        if (length > 1000 && number++ % 8 != 0) continue;
        GroupingCase c = one_row(length);
        c.settings.rule = GroupingRule::block;
        c.settings.block_size = length > 1000 ? 256 : 30;  // 30 - 3 focal tokens leave a group of 11 beside one of 16
        c.settings.local_blocks = static_cast<int64_t>(number % 4);
        c.settings.group_size = group_size;
        c.settings.focal_ratio = ratio;
        c.group_heads = int64_t{1} << number % 4;
        c.head_dim = number % 2 == 0 ? 128 : 64;
        c.pooling = number % 7 == 3 ? GroupPooling::mean : GroupPooling::last_query;
        c.importance_levels = number % 3 == 0 ? 4 : 0;
        c.padding = number % 2 * 3;
        c.seed = ++number;
        cases.run(c);
      }
    }
  }
}

// Logits of tens: most weights vanish, and 0 ln 0 is 0.
TEST_F(GroupingGpu, SharpWeights) {
  Cases cases;
  for (const int64_t group_size : {16, 100}) {
    for (const double scale : {10.0, 100.0}) {
      GroupingCase c = one_row(1000);
      c.settings.group_size = group_size;
      c.query_scale = scale;
      GroupingRun run(c);
      run.run_select();
      run.run_order();
      run.run_forward();
      run.run_backward();
      if (scale < 50) cases.run(c);
      // At 100 the logits themselves err too much in fp32 for the other bounds; nothing may be lost.
      for (const float value : run.bias.download()) EXPECT_TRUE(std::isfinite(value) && value >= -1e-4f) << value;
      const std::vector<uint16_t> grads = run.grads.query.buffer->download();
      for (int64_t t = 0; t < c.length; ++t) {
        for (int64_t d = 0; d < c.head_dim; ++d) {
          EXPECT_TRUE(std::isfinite(from_bf16(grads[run.grads.key.index(0, t, 0) + d]))) << t;
          EXPECT_TRUE(std::isfinite(from_bf16(grads[run.grads.query.index(0, t, 0) + d]))) << t;
        }
      }
    }
  }
}

// Exactly the focal count: the threshold among many equal values at the ends of the range of floats, or among values
// that differ in their last bits only.
TEST_F(GroupingGpu, SelectionOfExtremeAndCloseValues) {
  std::mt19937 random(5);
  const auto extreme = [&random] {
    const float values[] = {0.0f, 1e-45f, 1e-38f, 1.0f, 3.4e38f};
    return values[random() % 5];
  };
  const auto close = [&random] { return 1 + std::ldexp(static_cast<float>(random() % 4096), -23); };
  for (const int64_t length : {33, 4096, 4097, 70001}) {
    for (const double ratio : {1e-9, 0.37, 0.999}) {
      for (const bool extremes : {false, true}) {
        GroupingCase c = one_row(length);
        c.settings.focal_ratio = ratio;
        c.kv_heads = 4;
        GroupingRun run(c);
        for (float& value : run.importance) value = extremes ? extreme() : close();
        DGA_CUDA_CHECK(cudaMemcpy(run.importance_device.get(), run.importance.data(), run.importance.size() * 4,
                                  cudaMemcpyHostToDevice));
        SCOPED_TRACE(c.text());
        run.run_select();
        check_select(run, oracle_of(run));
      }
    }
  }
}

TEST_F(GroupingGpu, SameBitsTwice) {
  GroupingCase c;
  c.length = 4161;
  c.starts = {{0, 1000}, {0}};
  c.kv_heads = 2;
  c.group_heads = 4;
  c.importance_levels = 40;
  c.settings.local_window = 64;
  GroupingRun first(c), second(c);
  for (GroupingRun* run : {&first, &second}) {
    run->run_select();
    run->run_order();
    run->run_forward();
    run->run_backward();
  }
  EXPECT_EQ(first.bits.download(), second.bits.download());
  EXPECT_EQ(first.token_order.download(), second.token_order.download());
  EXPECT_EQ(first.compact[0].buffer->download(), second.compact[0].buffer->download());
  EXPECT_EQ(first.compact[1].buffer->download(), second.compact[1].buffer->download());
  EXPECT_EQ(first.bias.download(), second.bias.download());
  EXPECT_EQ(first.grads.query.buffer->download(), second.grads.query.buffer->download());
}

TEST_F(GroupingGpu, OtherHeadDimsAreRefused) {
  GroupingCase c = one_row(64);
  GroupingRun run(c);
  CompressForwardParams params;
  params.common = run.common();
  params.common.shape.head_dim = 96;
  EXPECT_THROW(compress_forward(params, nullptr), std::runtime_error);
}

}  // namespace
}  // namespace dga::kernels::testing

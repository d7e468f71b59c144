#include "kernels/sum_parts.h"

#include <gtest/gtest.h>

#include <random>

#include "kernels/bf16.h"
#include "kernels/device_buffer.h"

namespace dga::kernels::testing {
namespace {

// Bit for bit: fp32 sums in the order of the parts, as the host takes them.
TEST(SumPartsGpu, HasTheBitsOfSumsInOrder) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) GTEST_SKIP() << "no GPU in this machine";
  std::mt19937 generator(7);
  std::normal_distribution<double> normal(0.0, 1.0);
  for (const int64_t count : {1, 7, 8, 2040, 2048, 2056, 3001, 200000}) {
    for (const int64_t part_count : {1, 2, 3, 8}) {
      std::vector<uint16_t> parts(static_cast<size_t>(count * part_count));
      for (uint16_t& number : parts) number = to_bf16(normal(generator));
      const DeviceBuffer<uint16_t> input(parts);
      const int64_t offset = part_count == 3 ? 1 : 0;  // a sum that is not aligned
      const DeviceBuffer<float> sum(static_cast<size_t>(offset + count));
      sum_parts({.parts = input.get(), .part_count = part_count, .count = count, .sum = sum.get() + offset}, nullptr);
      const std::vector<float> actual = sum.download();
      for (int64_t i = 0; i < count; ++i) {
        float expected = 0;
        for (int64_t p = 0; p < part_count; ++p) {
          expected += static_cast<float>(from_bf16(parts[static_cast<size_t>(p * count + i)]));
        }
        ASSERT_EQ(actual[static_cast<size_t>(offset + i)], expected)
            << part_count << " parts of " << count << ", number " << i;
      }
      EXPECT_TRUE(sum.guards_intact() && input.guards_intact()) << part_count << " parts of " << count;
    }
  }
}

}  // namespace
}  // namespace dga::kernels::testing

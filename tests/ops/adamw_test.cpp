#include "ops/adamw.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <limits>

#include "kernels/number_codes.h"
#include "tensor/parallel.h"

namespace dga {
namespace {

namespace codes = kernels;

// All 2^32 bit patterns: the master comes back as it was, and the weight is the nearest bf16.
TEST(SplitMaster, IsExactForEveryBitPattern) {
  std::atomic<int64_t> not_exact = 0, not_nearest = 0, lost_nan = 0;
  for_each_in_parallel(256, [&](int64_t block) {
    const int64_t first = block * 256, last = first + 256;
    int64_t bad = 0, far = 0, lost = 0;
    for (int64_t high = first; high < last; ++high) {
      for (uint32_t low = 0; low < 65536; ++low) {
        const uint32_t bits = static_cast<uint32_t>(high) << 16 | low;
        const bool is_nan = (bits & 0x7fffffffU) > 0x7f800000U;
        const codes::SplitMaster split = codes::split_master(codes::float_of(bits));
        const uint32_t back = codes::bits_of(codes::join_master(split.high, split.low));
        if (is_nan) {
          lost += (back & 0x7fffffffU) <= 0x7f800000U || (split.high & 0x7fffU) <= 0x7f80U;
          continue;
        }
        bad += back != bits;
        // The neighbours of the same sign are high and high + 1; halfway takes the one further from zero.
        far += split.high != static_cast<uint16_t>(high + (low >= 0x8000U ? 1 : 0));
      }
    }
    not_exact += bad;
    not_nearest += far;
    lost_nan += lost;
  });
  EXPECT_EQ(not_exact, 0);
  EXPECT_EQ(not_nearest, 0);
  EXPECT_EQ(lost_nan, 0);
}

TEST(SplitMaster, RoundsAsLibTorchDoesButForTies) {
  at::manual_seed(1);
  const at::Tensor master = at::randn({10000}) * at::exp(at::randn({10000}) * 20);
  const at::Tensor weight = at::empty({10000}, at::kBFloat16), low = at::empty({10000}, at::kShort);
  split_masters(master, weight, low);
  EXPECT_TRUE(at::equal(weight, master.to(at::kBFloat16)));
  EXPECT_TRUE(at::equal(join_masters(weight, low), master));
}

TEST(MomentCodes, StochasticBfloat16IsUnbiasedAndKeepsExactValues) {
  for (const float value : {1.0F + 1.0F / 1024, -3.14159F, 1e-30F, 0.0F, -0.5F}) {
    double sum = 0;
    for (uint32_t random = 0; random < 65536; ++random) {
      sum += codes::bf16_value(codes::bf16_stochastic(value, random));
    }
    EXPECT_LE(std::abs(sum / 65536 - value), 1e-7 * std::abs(value)) << value;
  }
  EXPECT_EQ(codes::bf16_value(codes::bf16_stochastic(-0.5F, 65535)), -0.5F);
}

TEST(MomentCodes, EveryCodeComesBack) {
  const float scale = 0.37F, log2_scale = std::log2(scale);
  for (const uint32_t random : {0U, 32768U, 65535U}) {
    for (int code = -127; code <= 127; ++code) {
      const float value = codes::first_moment_value(static_cast<int8_t>(code), scale);
      const float back = codes::first_moment_value(codes::first_moment_code(value, scale, log2_scale, random), scale);
      // exp2 and log2 may leave a value just beside its code, where an extreme random number takes the neighbour.
      EXPECT_NEAR(back, value, random == 32768U ? 0.0 : 0.06 * std::abs(value)) << code;
    }
  }
  for (int code = 0; code <= 255; ++code) {
    const float value = codes::second_moment_value(static_cast<uint8_t>(code), scale);
    EXPECT_EQ(codes::second_moment_code(value, scale, log2_scale, 32768U), code);
  }
}

TEST(MomentCodes, EightBitsAreUnbiasedWithinTheirRange) {
  const float scale = 2.0F, log2_scale = 1.0F;
  for (const float share : {1.0F, 0.97F, 0.5F, 0.1F, 0.003F, 0.0005F, 0.0F}) {
    for (const float sign : {1.0F, -1.0F}) {
      const float value = sign * share * scale;
      double first = 0, second = 0;
      for (uint32_t random = 0; random < 65536; ++random) {
        first += codes::first_moment_value(codes::first_moment_code(value, scale, log2_scale, random), scale);
        second +=
            codes::second_moment_value(codes::second_moment_code(std::abs(value), scale, log2_scale, random), scale);
      }
      EXPECT_LE(std::abs(first / 65536 - value), 3e-5 * std::max(std::abs(value), 0.001F)) << value;
      EXPECT_LE(std::abs(second / 65536 - std::abs(value)), 3e-5 * std::abs(value)) << value;
    }
  }
}

TEST(MomentCodes, ASecondMomentNeverFallsToZero) {
  for (uint32_t random = 0; random < 65536; random += 255) {
    EXPECT_EQ(codes::second_moment_code(1e-20F, 1.0F, 0.0F, random), 1);
  }
  EXPECT_EQ(codes::second_moment_code(0.0F, 1.0F, 0.0F, 0), 0);
  EXPECT_EQ(codes::second_moment_code(0.0F, 0.0F, -std::numeric_limits<float>::infinity(), 0), 0);
}

struct NormCase {
  int64_t count;
  at::ScalarType type;
};

at::Tensor no_losses() { return at::zeros({1}, at::kDouble); }

TEST(GradientNorm, IsTheNormOfAllNumbersAndClips) {
  for (const NormCase& c :
       {NormCase{8, at::kFloat}, {70'000, at::kFloat}, {200'000, at::kBFloat16}, {8, at::kDouble}}) {
    at::manual_seed(2);
    const at::Tensor gradient = at::randn({c.count}).to(c.type), stop = at::zeros({}, at::kInt);
    const double expected = gradient.to(at::kDouble).norm().item<double>();
    const GradientNorm found = gradient_norm(sum_of_squares(gradient), no_losses(), 0.5, stop);
    EXPECT_NEAR(found.norm.item<double>() / expected, 1.0, 1e-6) << c.count;
    EXPECT_FLOAT_EQ(found.factor.item<float>(), static_cast<float>(0.5 / (expected + 1e-6)));
    EXPECT_EQ(gradient_norm(sum_of_squares(gradient), no_losses(), 0, stop).factor.item<float>(), 1.0F);
    EXPECT_EQ(gradient_norm(sum_of_squares(gradient), no_losses(), 2 * expected, stop).factor.item<float>(), 1.0F);
    EXPECT_EQ(stop.item<int>(), 0);
  }
}

TEST(GradientNorm, StopsAtNonFiniteNumbersForGood) {
  const at::Tensor stop = at::zeros({}, at::kInt), good = at::ones({16});
  at::Tensor gradient = at::ones({16});
  gradient[9] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(std::isfinite(gradient_norm(sum_of_squares(gradient), no_losses(), 1, stop).norm.item<double>()));
  EXPECT_EQ(stop.item<int>(), 1);
  gradient_norm(sum_of_squares(good), no_losses(), 1, stop);
  EXPECT_EQ(stop.item<int>(), 1);
  const at::Tensor other = at::zeros({}, at::kInt);
  gradient_norm(sum_of_squares(good), at::tensor({1.0, std::numeric_limits<double>::quiet_NaN()}, at::kDouble), 1,
                other);
  EXPECT_EQ(other.item<int>(), 1);
}

}  // namespace
}  // namespace dga

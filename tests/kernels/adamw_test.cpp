#include "kernels/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "kernels/bf16.h"
#include "kernels/device_buffer.h"
#include "kernels/gradient_norm.h"

namespace dga::kernels::testing {
namespace {

#define SKIP_WITHOUT_DEVICE()                                                                              \
  do {                                                                                                     \
    int count = 0;                                                                                         \
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no GPU in this machine"; \
  } while (false)

struct Settings {
  double learning_rate = 1e-3, weight_decay = 0.1, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  float factor = 0.5F;
};

enum class Weights { fp32, split };

/// What the kernel reads and writes, on the device, with guards and poison around and behind.
struct Case {
  Weights weights;
  GradientType gradients;
  MomentType moments;
  int64_t count;

  size_t moment_bytes() const {
    return static_cast<size_t>(count) * (moments == MomentType::fp32 ? 4 : moments == MomentType::bf16 ? 2 : 1);
  }
};

std::vector<Case> all_cases(int64_t count) {
  std::vector<Case> cases;
  for (const MomentType moments : {MomentType::fp32, MomentType::bf16, MomentType::int8}) {
    cases.push_back({Weights::fp32, GradientType::fp32, moments, count});
    cases.push_back({Weights::split, GradientType::fp32, moments, count});
    cases.push_back({Weights::split, GradientType::bf16, moments, count});
  }
  return cases;
}

std::vector<float> random_numbers(int64_t count, double size, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0.0, size);
  std::vector<float> numbers(static_cast<size_t>(count));
  for (float& number : numbers) number = static_cast<float>(normal(generator));
  return numbers;
}

std::vector<float> rounded_to_bf16(std::vector<float> numbers) {
  for (float& number : numbers) number = static_cast<float>(from_bf16(to_bf16(number)));
  return numbers;
}

uint32_t bits(float value) {
  uint32_t word;
  std::memcpy(&word, &value, sizeof(word));
  return word;
}

/// A run of the kernel over several updates, state on the device.
class AdamWRun {
 public:
  AdamWRun(const Case& c, const std::vector<float>& weights, uint64_t key)
      : case_(c),
        key_(key),
        wide_(c.weights == Weights::fp32 ? weights : std::vector<float>(1)),
        high_(bf16_of(c.weights == Weights::split ? weights : std::vector<float>(1))),
        low_(std::vector<int16_t>(weights.size(), 0)),
        gradient_(static_cast<size_t>(c.count) * 4),
        exp_avg_(std::vector<uint8_t>(c.moment_bytes(), 0)),
        exp_avg_sq_(std::vector<uint8_t>(c.moment_bytes(), 0)),
        scale_(std::vector<float>(c.count / 256, 0.0F)),
        scale_sq_(std::vector<float>(c.count / 256, 0.0F)),
        factor_(std::vector<float>(1)),
        stop_(std::vector<int32_t>(1, 0)) {}

  void update(const std::vector<float>& gradient, const Settings& s) {
    ++updates_;
    upload_gradient(gradient);
    DGA_CUDA_CHECK(cudaMemcpy(factor_.get(), &s.factor, sizeof(float), cudaMemcpyHostToDevice));
    AdamWParams p;
    p.count = case_.count;
    p.first = 512;
    const bool split = case_.weights == Weights::split;
    p.weight = split ? static_cast<void*>(high_.get()) : wide_.get();
    p.weight_low = split ? low_.get() : nullptr;
    p.gradient = gradient_.get();
    p.exp_avg = exp_avg_.get();
    p.exp_avg_sq = exp_avg_sq_.get();
    p.exp_avg_scale = scale_.get();
    p.exp_avg_sq_scale = scale_sq_.get();
    p.gradient_type = case_.gradients;
    p.moments = case_.moments;
    p.gradient_factor = factor_.get();
    p.stop = stop_.get();
    p.decay = static_cast<float>(s.learning_rate * s.weight_decay);
    p.beta1 = static_cast<float>(s.beta1);
    p.beta2 = static_cast<float>(s.beta2);
    p.one_less_beta1 = static_cast<float>(1 - s.beta1);
    p.one_less_beta2 = static_cast<float>(1 - s.beta2);
    p.epsilon = static_cast<float>(s.epsilon);
    p.step_size = static_cast<float>(s.learning_rate / (1 - std::pow(s.beta1, updates_)));
    p.inverse_root_c2 = static_cast<float>(1 / std::sqrt(1 - std::pow(s.beta2, updates_)));
    p.rounding_key = key_ + static_cast<uint64_t>(updates_);
    adamw(p, nullptr);
    DGA_CUDA_CHECK(cudaDeviceSynchronize());
  }

  void stop() {
    const int32_t one = 1;
    DGA_CUDA_CHECK(cudaMemcpy(stop_.get(), &one, sizeof(one), cudaMemcpyHostToDevice));
  }

  /// The weights in fp32; of split ones the masters, put together by the rule of number_codes.h written out again.
  std::vector<float> weights() const {
    if (case_.weights == Weights::fp32) return wide_.download();
    const std::vector<uint16_t> high = high_.download();
    const std::vector<int16_t> low = low_.download();
    std::vector<float> masters(high.size());
    for (size_t i = 0; i < masters.size(); ++i) {
      const auto word = static_cast<uint32_t>(static_cast<int64_t>(high[i]) * 65536 + low[i]);
      std::memcpy(&masters[i], &word, sizeof(word));
    }
    return masters;
  }
  std::vector<uint16_t> bf16_weights() const { return high_.download(); }
  template <class T>
  std::vector<T> moment(int which) const {
    const std::vector<uint8_t> bytes = (which == 0 ? exp_avg_ : exp_avg_sq_).download();
    std::vector<T> numbers(bytes.size() / sizeof(T));
    std::memcpy(numbers.data(), bytes.data(), bytes.size());
    return numbers;
  }
  std::vector<float> scales(int which) const { return (which == 0 ? scale_ : scale_sq_).download(); }
  bool guards_intact() const {
    return wide_.guards_intact() && high_.guards_intact() && low_.guards_intact() && gradient_.guards_intact() &&
           exp_avg_.guards_intact() && exp_avg_sq_.guards_intact() && scale_.guards_intact() &&
           scale_sq_.guards_intact();
  }

 private:
  static std::vector<uint16_t> bf16_of(const std::vector<float>& numbers) {
    std::vector<uint16_t> narrow(numbers.size());
    for (size_t i = 0; i < narrow.size(); ++i) narrow[i] = to_bf16(numbers[i]);
    return narrow;
  }
  void upload_gradient(const std::vector<float>& gradient) {
    if (case_.gradients == GradientType::fp32) {
      DGA_CUDA_CHECK(cudaMemcpy(gradient_.get(), gradient.data(), gradient.size() * 4, cudaMemcpyHostToDevice));
    } else {
      const std::vector<uint16_t> narrow = bf16_of(gradient);
      DGA_CUDA_CHECK(cudaMemcpy(gradient_.get(), narrow.data(), narrow.size() * 2, cudaMemcpyHostToDevice));
    }
  }

  Case case_;
  uint64_t key_;
  int updates_ = 0;
  DeviceBuffer<float> wide_;
  DeviceBuffer<uint16_t> high_;
  DeviceBuffer<int16_t> low_;
  DeviceBuffer<uint8_t> gradient_, exp_avg_, exp_avg_sq_;
  DeviceBuffer<float> scale_, scale_sq_, factor_;
  DeviceBuffer<int32_t> stop_;
};

/// The formula in fp32 on the host, in the order that adamw.h states.
struct HostAdamW {
  std::vector<float> w, m, v;
  int updates = 0;
  explicit HostAdamW(std::vector<float> start) : w(std::move(start)), m(w.size(), 0.0F), v(w.size(), 0.0F) {}
  void update(const std::vector<float>& gradient, const Settings& s) {
    ++updates;
    const auto decay = static_cast<float>(s.learning_rate * s.weight_decay), beta2 = static_cast<float>(s.beta2);
    const auto rest1 = static_cast<float>(1 - s.beta1), rest2 = static_cast<float>(1 - s.beta2);
    const auto rate = static_cast<float>(s.learning_rate / (1 - std::pow(s.beta1, updates)));
    const auto root_c2 = static_cast<float>(1 / std::sqrt(1 - std::pow(s.beta2, updates)));
    for (size_t i = 0; i < w.size(); ++i) {
      const volatile float g = gradient[i] * s.factor, square = g * g, kept = beta2 * v[i], gap = g - m[i];
      w[i] = std::fma(-decay, w[i], w[i]);
      m[i] = std::fma(rest1, gap, m[i]);
      v[i] = std::fma(rest2, square, kept);
      const volatile float root = std::fma(std::sqrt(v[i]), root_c2, static_cast<float>(s.epsilon));
      const volatile float ratio = m[i] / root;
      w[i] = std::fma(-rate, ratio, w[i]);
    }
  }
};

TEST(AdamWGpu, MastersGoWhereSinglePrecisionGoesBitForBit) {
  SKIP_WITHOUT_DEVICE();
  Settings settings;
  settings.learning_rate = 2e-6;  // far below bf16's resolution of weights around 1
  for (Case c : all_cases(256 * 9)) {
    if (c.moments != MomentType::fp32) continue;
    const std::vector<float> start = rounded_to_bf16(random_numbers(c.count, 1.0, 1));
    AdamWRun run(c, start, 77);
    HostAdamW host(start);
    for (int step = 0; step < 300; ++step) {
      const std::vector<float> gradient = rounded_to_bf16(random_numbers(c.count, 0.01, 100 + step));
      run.update(gradient, settings);
      host.update(gradient, settings);
      const std::vector<float> found = run.weights();
      for (size_t i = 0; i < found.size(); ++i) {
        ASSERT_EQ(bits(found[i]), bits(host.w[i])) << "step " << step << " number " << i;
      }
    }
    const std::vector<float> m = run.moment<float>(0), v = run.moment<float>(1);
    for (size_t i = 0; i < m.size(); ++i) {
      ASSERT_EQ(bits(m[i]), bits(host.m[i])) << i;
      ASSERT_EQ(bits(v[i]), bits(host.v[i])) << i;
    }
    double moved = 0;
    for (size_t i = 0; i < start.size(); ++i) moved += std::abs(host.w[i] - start[i]) / static_cast<double>(c.count);
    EXPECT_GT(moved, 1e-5);
    EXPECT_TRUE(run.guards_intact());
    if (c.weights == Weights::fp32) continue;
    const std::vector<uint16_t> seen = run.bf16_weights();
    for (size_t i = 0; i < seen.size(); ++i) {
      EXPECT_LE(std::abs(from_bf16(seen[i]) - host.w[i]), bf16_half_ulp(host.w[i])) << i;
    }
  }
}

TEST(AdamWGpu, EqualsTheFormulaInDouble) {
  SKIP_WITHOUT_DEVICE();
  const Settings s;
  for (const int64_t count : {int64_t{256}, int64_t{2048}, int64_t{256 * 1001}}) {
    for (const Case& c : all_cases(count)) {
      const std::vector<float> start = rounded_to_bf16(random_numbers(count, 0.05, 3));
      const std::vector<float> gradient = rounded_to_bf16(random_numbers(count, 1.0, 4));
      AdamWRun run(c, start, 5);
      run.update(gradient, s);  // from zero moments, so that their type does not matter yet
      const std::vector<float> found = run.weights();
      for (int64_t i = 0; i < count; ++i) {
        const double g = static_cast<double>(gradient[i]) * s.factor;
        const double expected =
            start[i] * (1 - s.learning_rate * s.weight_decay) - s.learning_rate * g / (std::abs(g) + s.epsilon);
        // Four roundings of the weight's size and a few of the step's.
        ASSERT_LE(std::abs(found[i] - expected), 3e-7 * std::abs(expected) + 1e-6 * s.learning_rate) << i;
      }
      EXPECT_TRUE(run.guards_intact());
    }
  }
}

/// The moments after one update from zero, exactly: (1 - b1) g and (1 - b2) g^2.
struct ExactMoments {
  std::vector<double> first, second;
};
ExactMoments exact_moments(const std::vector<float>& gradient, const Settings& s) {
  ExactMoments exact;
  for (const float number : gradient) {
    const double g = static_cast<double>(number) * s.factor;
    exact.first.push_back((1 - s.beta1) * g);
    exact.second.push_back((1 - s.beta2) * g * g);
  }
  return exact;
}

TEST(AdamWGpu, Bfloat16MomentsRoundToANeighbourWithoutBias) {
  SKIP_WITHOUT_DEVICE();
  const Settings s;
  const Case c{Weights::split, GradientType::fp32, MomentType::bf16, 256 * 400};
  const std::vector<float> gradient = random_numbers(c.count, 1.0, 8);
  AdamWRun run(c, random_numbers(c.count, 1.0, 7), 9);
  run.update(gradient, s);
  const ExactMoments exact = exact_moments(gradient, s);
  for (const int which : {0, 1}) {
    const std::vector<uint16_t> stored = run.moment<uint16_t>(which);
    const std::vector<double>& expected = which == 0 ? exact.first : exact.second;
    double error = 0, variance = 0;
    for (size_t i = 0; i < stored.size(); ++i) {
      const double step = 2 * bf16_half_ulp(expected[i]), off = from_bf16(stored[i]) - expected[i];
      ASSERT_LE(std::abs(off), step * 1.001 + 1e-7 * std::abs(expected[i])) << i;
      error += off / step;
      variance += 1.0 / 4;  // at most, of one rounding in units of its step
    }
    EXPECT_LE(std::abs(error), 5 * std::sqrt(variance)) << which;
  }
}

TEST(AdamWGpu, EightBitMomentsRoundToANeighbourWithoutBias) {
  SKIP_WITHOUT_DEVICE();
  const Settings s;
  const Case c{Weights::fp32, GradientType::fp32, MomentType::int8, 256 * 400};
  std::vector<float> gradient = random_numbers(c.count, 1.0, 8);
  for (int64_t i = 0; i < 256; ++i) gradient[256 + i] = 0;  // a block of zeros
  gradient[5] = 0;
  AdamWRun run(c, random_numbers(c.count, 1.0, 7), 9);
  run.update(gradient, s);
  const ExactMoments exact = exact_moments(gradient, s);
  const double step = std::exp2(1.0 / 12);
  for (const int which : {0, 1}) {
    const std::vector<int8_t> signs = run.moment<int8_t>(which);
    const std::vector<uint8_t> codes = run.moment<uint8_t>(which);
    const std::vector<float> scales = run.scales(which);
    const std::vector<double>& expected = which == 0 ? exact.first : exact.second;
    const int levels = which == 0 ? 127 : 255;
    double error = 0, variance = 0;
    for (int64_t i = 0; i < c.count; ++i) {
      double largest = 0;
      for (int64_t j = i / 256 * 256; j < i / 256 * 256 + 256; ++j) largest = std::max(largest, std::abs(expected[j]));
      const double scale = scales[i / 256];
      ASSERT_NEAR(scale, largest, 1e-6 * largest) << i;
      const int code = which == 0 ? signs[i] : codes[i];
      const double value = code == 0 ? 0 : std::copysign(scale * std::exp2((std::abs(code) - levels) / 12.0), code);
      const double smallest = scale * std::exp2((1 - levels) / 12.0), size = std::abs(expected[i]);
      if (size < smallest || size == 0) {
        ASSERT_LE(std::abs(value), smallest * 1.0001) << i;
        ASSERT_TRUE(which == 0 || size == 0 || code == 1) << i;
        continue;
      }
      ASSERT_LE(std::abs(value), size * step * 1.0001) << i;
      ASSERT_GE(std::abs(value), size / step * 0.9999) << i;
      ASSERT_EQ(value < 0, expected[i] < 0) << i;
      error += (std::abs(value) - size) / (size * (step - 1));
      variance += 1.0 / 4;
    }
    EXPECT_LE(std::abs(error), 5 * std::sqrt(variance)) << which;
    EXPECT_EQ(codes[300], 0);
    EXPECT_EQ(codes[5], 0);
  }
}

TEST(AdamWGpu, SameBitsEveryTimeOtherRandomNumbersWithAnotherKey) {
  SKIP_WITHOUT_DEVICE();
  const Settings s;
  for (const Case& c : all_cases(256 * 33)) {
    const std::vector<float> start = random_numbers(c.count, 0.05, 3);
    const auto moments_after = [&](uint64_t key) {
      AdamWRun run(c, start, key);
      for (unsigned step = 0; step < 5; ++step) run.update(random_numbers(c.count, 1.0, step), s);
      std::vector<uint8_t> bytes = run.moment<uint8_t>(0);
      const std::vector<uint8_t> second = run.moment<uint8_t>(1);
      bytes.insert(bytes.end(), second.begin(), second.end());
      for (const float weight : run.weights()) bytes.push_back(static_cast<uint8_t>(bits(weight)));
      return bytes;
    };
    EXPECT_EQ(moments_after(1), moments_after(1));
    EXPECT_EQ(moments_after(1) == moments_after(1000), c.moments == MomentType::fp32);
  }
}

TEST(AdamWGpu, ChangesNothingWhereStopIsSet) {
  SKIP_WITHOUT_DEVICE();
  const Settings s;
  for (const Case& c : all_cases(256 * 3)) {
    AdamWRun run(c, random_numbers(c.count, 0.05, 3), 1);
    run.update(random_numbers(c.count, 1.0, 4), s);
    const std::vector<float> weights = run.weights(), scales = run.scales(0);
    const std::vector<uint8_t> first = run.moment<uint8_t>(0), second = run.moment<uint8_t>(1);
    run.stop();
    run.update(std::vector<float>(c.count, std::numeric_limits<float>::quiet_NaN()), s);
    EXPECT_EQ(run.weights(), weights);
    EXPECT_EQ(run.scales(0), scales);
    EXPECT_EQ(run.moment<uint8_t>(0), first);
    EXPECT_EQ(run.moment<uint8_t>(1), second);
  }
}

/// Norm, factor and stop flag of a gradient.
struct Measured {
  double norm;
  float factor;
  int32_t stop;
  bool guards;
};

template <class T>
Measured measure(const std::vector<T>& numbers, const std::vector<double>& losses, double clip_norm) {
  const DeviceBuffer<T> gradient(numbers);
  const DeviceBuffer<double> sum(1), norm(1), loss(losses);
  const DeviceBuffer<float> factor(1);
  const DeviceBuffer<int32_t> stop(std::vector<int32_t>(1, 0));
  const DeviceBuffer<uint8_t> workspace(sum_of_squares_workspace_bytes());
  const GradientType type = sizeof(T) == 4 ? GradientType::fp32 : GradientType::bf16;
  sum_of_squares({gradient.get(), type, static_cast<int64_t>(numbers.size()), sum.get(), workspace.get()}, nullptr);
  gradient_clip(
      {sum.get(), loss.get(), static_cast<int64_t>(losses.size()), clip_norm, norm.get(), factor.get(), stop.get()},
      nullptr);
  DGA_CUDA_CHECK(cudaDeviceSynchronize());
  return {norm.download()[0], factor.download()[0], stop.download()[0],
          sum.guards_intact() && norm.guards_intact() && factor.guards_intact() && stop.guards_intact() &&
              workspace.guards_intact()};
}

TEST(GradientNormGpu, EqualsTheNormInDoubleAndRepeatsItsBits) {
  SKIP_WITHOUT_DEVICE();
  for (const int64_t count :
       {int64_t{8}, int64_t{256}, int64_t{4096 * 1024 - 8}, int64_t{4096 * 1024 + 8}, int64_t{13'000'000}}) {
    const std::vector<float> wide = random_numbers(count, 1e-4, 2);
    std::vector<uint16_t> narrow(wide.size());
    double wide_sum = 0, narrow_sum = 0;
    for (size_t i = 0; i < wide.size(); ++i) {
      narrow[i] = to_bf16(wide[i]);
      wide_sum += static_cast<double>(wide[i]) * wide[i];
      narrow_sum += from_bf16(narrow[i]) * from_bf16(narrow[i]);
    }
    const double clip = 1e-3;
    const Measured first = measure(wide, {1.0}, clip), again = measure(wide, {1.0}, clip);
    EXPECT_NEAR(first.norm / std::sqrt(wide_sum), 1.0, 3e-7) << count;
    EXPECT_EQ(first.norm, again.norm) << count;
    EXPECT_EQ(first.factor, static_cast<float>(std::min(1.0, clip / (first.norm + 1e-6))));
    EXPECT_EQ(first.stop, 0);
    EXPECT_TRUE(first.guards);
    EXPECT_NEAR(measure(narrow, {1.0}, 0).norm / std::sqrt(narrow_sum), 1.0, 3e-7) << count;
    EXPECT_EQ(measure(narrow, {1.0}, 0).factor, 1.0F);
  }
}

TEST(GradientNormGpu, SetsTheFlagForNonFiniteNumbersAnywhere) {
  SKIP_WITHOUT_DEVICE();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    for (const size_t at : {size_t{0}, size_t{4095}, size_t{9'999'999}}) {
      std::vector<float> numbers(10'000'000, 1e-3F);
      numbers[at] = bad;
      EXPECT_EQ(measure(numbers, {1.0}, 1.0).stop, 1) << at;
    }
  }
  const std::vector<float> good(256, 1.0F);
  EXPECT_EQ(measure(good, {1.0, 2.0}, 1.0).stop, 0);
  EXPECT_EQ(measure(good, {1.0, nan}, 1.0).stop, 1);
}

}  // namespace
}  // namespace dga::kernels::testing

// Times of the optimizer's kernels over a tenth of LLaMA-2-7B beside the speed of a copy and LibTorch's fused AdamW.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include <cstdio>
#include <functional>

#include "kernels/common/device.h"
#include "ops/adamw.h"
#include "ops/timing.h"

namespace dga {
namespace {

using testing::median_ms;

constexpr double kCopyBytesPerMs = 2.99e9;        // device copy on an H100, read and written
constexpr int64_t kNumbers = int64_t{640} << 20;  // 671 M; 7B has 10.04 times as many

void report(const char* name, double bytes_each, const std::function<void()>& work) {
  const double ms = median_ms(work), bytes = bytes_each * static_cast<double>(kNumbers);
  std::printf("    %-44s %8.3f ms %6.2f TB/s %4.0f %% of copy\n", name, ms, bytes / ms / 1e9,
              100 * bytes / ms / kCopyBytesPerMs);
}

class AdamWTimingGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    const kernels::DeviceList list = kernels::list_devices();
    if (!torch::cuda::is_available() || list.devices.empty()) GTEST_SKIP() << "no GPU in this machine";
    std::printf("  %s, %ld numbers\n", list.devices[0].name.c_str(), static_cast<long>(kNumbers));
  }
  static at::Tensor zeros(int64_t count, at::ScalarType type) {
    return at::zeros({count}, at::TensorOptions(at::kCUDA).dtype(type));
  }
  static AdamWRange make_range(at::ScalarType moments) {
    AdamWRange range;
    range.weight = at::randn({kNumbers}, at::TensorOptions(at::kCUDA).dtype(at::kBFloat16));
    range.weight_low = zeros(kNumbers, at::kShort);
    range.gradient = at::randn({kNumbers}, at::TensorOptions(at::kCUDA).dtype(at::kBFloat16));
    range.exp_avg.numbers = zeros(kNumbers, moments);
    range.exp_avg_sq.numbers = zeros(kNumbers, moments == at::kChar ? at::kByte : moments);
    if (moments != at::kChar) return range;
    range.exp_avg.scales = zeros(kNumbers / kMomentBlock, at::kFloat);
    range.exp_avg_sq.scales = zeros(kNumbers / kMomentBlock, at::kFloat);
    return range;
  }
};

TEST_F(AdamWTimingGpu, UpdateAndNorm) {
  AdamWStep step;
  step.learning_rate = 1e-5;
  step.beta1 = 0.9;
  step.beta2 = 0.95;
  step.epsilon = 1e-8;
  step.weight_decay = 0.1;
  step.updates = 1;
  step.factor = at::ones({}, at::TensorOptions(at::kCUDA));
  step.stop = zeros(1, at::kInt).squeeze(0);
  for (const auto& [name, type, bytes] :
       {std::tuple("adamw, bf16 with missing bits, moments fp32", at::kFloat, 26.0),
        std::tuple("moments bf16", at::kBFloat16, 18.0), std::tuple("moments int8", at::kChar, 14.0)}) {
    const AdamWRange range = make_range(type);
    report(name, bytes, [&] { adamw_update(range, step); });
  }
  const at::Tensor losses = zeros(1, at::kDouble), stop = zeros(1, at::kInt).squeeze(0);
  const at::Tensor gradient = at::randn({kNumbers}, at::TensorOptions(at::kCUDA).dtype(at::kBFloat16));
  report("norm, clipping, bf16 gradient", 2, [&] { gradient_norm(sum_of_squares(gradient), losses, 1.0, stop); });
  const at::Tensor wide = gradient.to(at::kFloat);
  report("norm, clipping, fp32 gradient", 4, [&] { gradient_norm(sum_of_squares(wide), losses, 1.0, stop); });
}

TEST_F(AdamWTimingGpu, LibTorchsFusedAdamWOnPureBfloat16) {
  const at::NoGradGuard no_grad;
  const auto make = [] { return at::randn({kNumbers}, at::TensorOptions(at::kCUDA).dtype(at::kBFloat16)); };
  const at::Tensor weight = make(), gradient = make(), first = at::zeros_like(weight), second = at::zeros_like(weight);
  const at::Tensor updates = at::ones({}, at::TensorOptions(at::kCUDA));
  report("LibTorch, weights and moments bf16, no master", 14, [&] {
    at::_fused_adamw_({weight}, {gradient}, {first}, {second}, {}, {updates}, 1e-5, 0.9, 0.95, 0.1, 1e-8, false, false,
                      std::nullopt, std::nullopt);
  });
}

}  // namespace
}  // namespace dga

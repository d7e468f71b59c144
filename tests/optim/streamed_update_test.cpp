#include "optim/streamed_update.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace dga {
namespace {

/// A range with state of this moment type, all on the device; bf16 weights.
AdamWRange make_range(int64_t count, at::ScalarType moments) {
  const auto device = at::TensorOptions(at::kCUDA);
  AdamWRange range;
  range.first = 512;
  range.weight = at::randn({count}, device).to(at::kBFloat16);
  range.weight_low = at::zeros({count}, device.dtype(at::kShort));
  range.gradient = at::zeros({count}, device.dtype(at::kBFloat16));
  range.exp_avg.numbers = at::zeros({count}, device.dtype(moments));
  range.exp_avg_sq.numbers = at::zeros({count}, device.dtype(moments == at::kChar ? at::kByte : moments));
  if (moments != at::kChar) return range;
  range.exp_avg.scales = at::zeros({count / kMomentBlock}, device);
  range.exp_avg_sq.scales = at::zeros({count / kMomentBlock}, device);
  return range;
}

/// The same with its state in pinned host memory, its weights and gradient copied.
AdamWRange on_host(const AdamWRange& range) {
  const auto pinned = [](const at::Tensor& tensor) { return tensor.defined() ? tensor.cpu().pin_memory() : tensor; };
  return {range.first,
          range.weight.clone(),
          pinned(range.weight_low),
          range.gradient.clone(),
          {pinned(range.exp_avg.numbers), pinned(range.exp_avg.scales)},
          {pinned(range.exp_avg_sq.numbers), pinned(range.exp_avg_sq.scales)}};
}

TEST(StreamedUpdateGpu, HasTheBitsOfTheUpdateOnTheDevice) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU";
  at::manual_seed(4);
  for (const at::ScalarType moments : {at::kFloat, at::kBFloat16, at::kChar}) {
    for (const int64_t count : {256, 256 * 7, 256 * 4001}) {  // one piece, a short last one, more than there are slots
      const AdamWRange device = make_range(count, moments), host = on_host(device);
      AdamWStep step;
      step.learning_rate = 1e-3;
      step.beta1 = 0.9;
      step.beta2 = 0.95;
      step.epsilon = 1e-8;
      step.weight_decay = 0.1;
      step.factor = at::ones({}, at::TensorOptions(at::kCUDA));
      step.stop = at::zeros({}, at::TensorOptions(at::kCUDA).dtype(at::kInt));
      for (step.updates = 1; step.updates <= 5; ++step.updates) {
        device.gradient.copy_(at::randn({count}));
        host.gradient.copy_(device.gradient);
        adamw_update(device, step);
        streamed_adamw_update(
            {host.slice(0, 256), host.slice(256, count)}, step, [](size_t) {}, count < 10'000 ? 512 : 256 * 500);
      }
      EXPECT_TRUE(at::equal(host.weight, device.weight)) << moments << " " << count;
      // .cpu() waits for the compute stream, behind which the copies back are done.
      EXPECT_TRUE(at::equal(device.weight_low.cpu(), host.weight_low)) << moments << " " << count;
      EXPECT_TRUE(at::equal(device.exp_avg.numbers.cpu(), host.exp_avg.numbers)) << moments << " " << count;
      EXPECT_TRUE(at::equal(device.exp_avg_sq.numbers.cpu(), host.exp_avg_sq.numbers)) << moments << " " << count;
      if (moments != at::kChar) continue;
      EXPECT_TRUE(at::equal(device.exp_avg_sq.scales.cpu(), host.exp_avg_sq.scales)) << count;
    }
  }
}

}  // namespace
}  // namespace dga

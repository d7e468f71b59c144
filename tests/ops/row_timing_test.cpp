// Times of the row kernels at the shapes of LLaMA-2-7B beside LibTorch's own operations and the speed of a copy.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include <cstdio>
#include <functional>

#include "kernels/common/device.h"
#include "ops/cross_entropy.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/swiglu.h"
#include "ops/timing.h"

namespace dga {
namespace {

using testing::median_ms;

constexpr double kCopyBytesPerMs = 2.99e9;  // device copy on an H100, read and written
constexpr int64_t kHidden = 4096, kIntermediate = 11008, kVocabulary = 32000, kHeads = 32, kHeadDim = 128;

void report(const char* name, double bytes, const std::function<void()>& ours, const std::function<void()>& theirs) {
  const double ms = median_ms(ours), peer_ms = median_ms(theirs);
  std::printf("    %-24s %8.3f ms %7.0f MB %6.2f TB/s %4.0f %% of copy   LibTorch %8.3f ms\n", name, ms, bytes / 1e6,
              bytes / ms / 1e9, 100 * bytes / ms / kCopyBytesPerMs, peer_ms);
}

class RowTimingGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    const kernels::DeviceList list = kernels::list_devices();
    if (!torch::cuda::is_available() || list.devices.empty()) GTEST_SKIP() << "no GPU in this machine";
    std::printf("  %s, bf16, hidden %ld, intermediate %ld, vocabulary %ld\n", list.devices[0].name.c_str(),
                static_cast<long>(kHidden), static_cast<long>(kIntermediate), static_cast<long>(kVocabulary));
  }
  static at::Tensor random(at::IntArrayRef shape) {
    return at::randn(shape, at::TensorOptions(at::kCUDA).dtype(at::kBFloat16));
  }
};

void time_norm(int64_t tokens, const std::function<at::Tensor(at::IntArrayRef)>& random) {
  const at::Tensor x = random({tokens, kHidden}), other = random({tokens, kHidden}), weight = random({kHidden});
  const at::Tensor dy = random({tokens, kHidden}), passed = random({tokens, kHidden});
  const double row = 2.0 * static_cast<double>(tokens * kHidden);
  report(
      "norm", 2 * row, [&] { add_rms_norm(x, {}, weight, 1e-5); }, [&] { at::rms_norm(x, {kHidden}, weight, 1e-5); });
  report(
      "add, norm", 4 * row, [&] { add_rms_norm(x, other, weight, 1e-5); },
      [&] { at::rms_norm(x.add(other), {kHidden}, weight, 1e-5); });
  const AddedNorm norm = add_rms_norm(x, other, weight, 1e-5);
  const at::Tensor leaf = norm.sum.detach().set_requires_grad(true), scale = weight.detach().set_requires_grad(true);
  const at::Tensor out = at::rms_norm(leaf, {kHidden}, scale, 1e-5);
  report(
      "add, norm backward", 4 * row,
      [&] {
        rms_norm_backward({dy, passed, norm.sum, norm.inverse_rms, true}, weight);
      },
      [&] {
        torch::autograd::grad({out}, {leaf, scale}, {dy}, /*retain_graph=*/true)[0].add_(passed);
      });
}

void time_rope(int64_t tokens, const std::function<at::Tensor(at::IntArrayRef)>& random) {
  const QueryKey x{random({1, tokens, kHeads, kHeadDim}), random({1, tokens, kHeads, kHeadDim})};
  const at::Tensor cos = random({1, tokens, kHeadDim}).to(at::kFloat),
                   sin = random({1, tokens, kHeadDim}).to(at::kFloat);
  const auto plain = [&](const at::Tensor& t) {
    const std::vector<at::Tensor> halves = t.chunk(2, -1);
    return t.mul(cos.to(at::kBFloat16).unsqueeze(2))
        .add_(at::cat({halves[1].neg(), halves[0]}, -1).mul_(sin.to(at::kBFloat16).unsqueeze(2)));
  };
  const double bytes =
      8.0 * static_cast<double>(tokens * kHeads * kHeadDim) + 8.0 * static_cast<double>(tokens * kHeadDim);
  report(
      "rope of q and k", bytes, [&] { apply_rope(x, cos, sin); },
      [&] {
        plain(x.query);
        plain(x.key);
      });
}

void time_swiglu(int64_t tokens, const std::function<at::Tensor(at::IntArrayRef)>& random) {
  const std::vector<int64_t> shape = {tokens, kIntermediate};
  const at::Tensor gate = random(shape), up = random(shape), grad = random(shape);
  const double bytes = 2.0 * static_cast<double>(gate.numel());
  report(
      "swiglu", 3 * bytes, [&] { swiglu(gate, up); }, [&] { at::silu(gate).mul_(up); });
  report(
      "swiglu backward", 6 * bytes, [&] { swiglu_backward(grad, gate, up, Operands::consumed); },
      [&] {
        const at::Tensor silu = at::silu(gate);
        silu.mul(up);
        silu.mul(grad);
        at::silu_backward(grad.mul(up), gate);
      });
}

void time_cross_entropy(int64_t tokens) {
  const at::Tensor logits = padded_logits(tokens, kVocabulary, at::TensorOptions(at::kCUDA).dtype(at::kFloat));
  logits.normal_();
  const at::Tensor labels = at::randint(kVocabulary, {tokens}, at::TensorOptions(at::kCUDA).dtype(at::kLong));
  report(
      "cross-entropy", 6.0 * static_cast<double>(logits.numel()),
      [&] { cross_entropy(logits, labels, 1e-4, at::kBFloat16); },
      [&] {
        (at::softmax(logits, 1)).scatter_add_(1, labels.unsqueeze(1), at::full({tokens, 1}, -1.0, logits.options()));
      });
}

TEST_F(RowTimingGpu, AtTrainingLengths) {
  for (const int64_t tokens : {8192, 32768}) {
    std::printf("  %ld tokens\n", static_cast<long>(tokens));
    time_norm(tokens, random);
    time_rope(tokens, random);
    time_swiglu(tokens, random);
  }
  std::printf("  4096 tokens, one chunk of the loss\n");
  time_cross_entropy(4096);
}

}  // namespace
}  // namespace dga

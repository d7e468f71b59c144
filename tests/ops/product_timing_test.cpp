// Speed of the products of a training step of LLaMA-2-7B: one layer's at 8192 tokens, and those of one chunk of the
// loss.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include <cstdio>

#include "kernels/common/device.h"
#include "ops/timing.h"

namespace dga {
namespace {

constexpr int64_t kTokens = 8192, kHidden = 4096, kIntermediate = 11008, kVocabulary = 32000, kChunk = 4096;

at::Tensor random(int64_t rows, int64_t columns, at::ScalarType type = at::kBFloat16) {
  return at::randn({rows, columns}, at::TensorOptions(at::kCUDA).dtype(type));
}

/// a [M, K] times b [K, N], either possibly a transpose; how the result is made.
struct Product {
  const char* name;
  at::Tensor a, b;
  at::ScalarType type = at::kBFloat16;  // of the result
  bool adds = false;                    // to what stands there
};

void time_product(const Product& p) {
  at::Tensor out = random(p.a.size(0), p.b.size(1), p.type);
  const auto work = [&] {
    if (p.type == at::kBFloat16) {
      p.adds ? at::addmm_out(out, out, p.a, p.b) : at::mm_out(out, p.a, p.b);
    } else {
      p.adds ? at::addmm_out(out, out, p.a, p.b, p.type) : at::mm_out(out, p.a, p.b, p.type);
    }
  };
  const double flops = 2.0 * static_cast<double>(out.numel()) * static_cast<double>(p.a.size(1));
  std::printf("    %-34s [%5ld x %5ld] x [%5ld x %5ld]", p.name, static_cast<long>(p.a.size(0)),
              static_cast<long>(p.a.size(1)), static_cast<long>(p.b.size(0)), static_cast<long>(p.b.size(1)));
  for (const at::BlasBackend backend : {at::BlasBackend::Cublas, at::BlasBackend::Cublaslt}) {
    at::globalContext().setBlasPreferredBackend(backend);
    const double ms = testing::median_ms(work);
    std::printf("  %s %7.3f ms %4.0f TFLOP/s", backend == at::BlasBackend::Cublas ? "cuBLAS" : "cuBLASLt", ms,
                flops / ms / 1e9);
  }
  at::globalContext().setBlasPreferredBackend(at::BlasBackend::Default);
  std::printf("\n");
}

TEST(ProductTimingGpu, OfALayerAndTheLoss) {
  const kernels::DeviceList list = kernels::list_devices();
  if (!torch::cuda::is_available() || list.devices.empty()) GTEST_SKIP() << "no GPU in this machine";
  std::printf("  %s\n", list.devices[0].name.c_str());
  const at::Tensor x = random(kTokens, kHidden), wide = random(kTokens, kIntermediate);
  const at::Tensor square = random(kHidden, kHidden), gate = random(kIntermediate, kHidden);
  const at::Tensor down = random(kHidden, kIntermediate);
  time_product({"q, k, v, o", x, square.t()});
  time_product({"gate, up", x, gate.t()});
  time_product({"down, onto the sum", wide, down.t(), at::kBFloat16, true});
  time_product({"inputs' gradient, q, k, v, o", x, square});
  time_product({"the same, added to another", x, square, at::kBFloat16, true});
  time_product({"inputs' gradient, gate, up", wide, gate});
  time_product({"inputs' gradient, down", x, down});
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    const bool adds = type == at::kFloat;  // sums over micro-batches or tiles are fp32
    time_product({adds ? "weights' gradient, q.., added fp32" : "weights' gradient, q, k, v, o", x.t(), x, type, adds});
    time_product({adds ? "weights' gradient, gate.., fp32" : "weights' gradient, gate, up", wide.t(), x, type, adds});
    time_product({adds ? "weights' gradient, down, fp32" : "weights' gradient, down", x.t(), wide, type, adds});
  }
  const at::Tensor states = random(kChunk, kHidden), head = random(kVocabulary, kHidden);
  const at::Tensor logit_gradient = random(kChunk, kVocabulary);
  time_product({"logits, fp32", states, head.t(), at::kFloat});
  time_product({"states' gradient", logit_gradient, head});
  time_product({"head's gradient, added fp32", logit_gradient.t(), states, at::kFloat, true});
}

}  // namespace
}  // namespace dga

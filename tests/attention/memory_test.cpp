// Attention at 8K tokens must fit a small machine: no L x L matrix for all heads.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "attention/attention.h"
#include "attention/cases.h"

namespace dga::testing {
namespace {

double peak_megabytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;  // ru_maxrss is in KiB on Linux
}

// Four heads of 8K x 8K logits in fp32 would be 1 GB, and their gradient as much.
TEST(Memory, ForwardAndBackwardAt8KStayUnder200Megabytes) {
  const Heads shape{1, 8192, 4, 2, 16};
  AttentionConfig global = dga_config(Selection::global), causal = dga_config(Selection::causal);
  global.sampled_queries = 256;
  const double before = peak_megabytes();
  for (const AttentionConfig& config : {full_config(AttentionBackend::reference), global, causal}) {
    const std::vector<at::Tensor> in = random_heads(shape, at::kFloat);
    const auto attention = make_attention(config, 0, 0);
    const auto result = with_gradients(
        [&](const auto& q, const auto& k, const auto& v) {
          return attention->forward(q, k, v, SequenceLayout::whole_rows(1, shape.length));
        },
        in, at::randn_like(in[0]));
    for (const at::Tensor& x : result) EXPECT_TRUE(at::isfinite(x).all().item<bool>());
    EXPECT_LE(peak_megabytes() - before, 200) << describe(config);
  }
}

}  // namespace
}  // namespace dga::testing

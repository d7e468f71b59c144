// The CUDA kernels as a backend: the same attention as the reference, and a clear word where they cannot serve.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include "attention/attention.h"
#include "attention/cases.h"
#include "ops/attention_memory.h"
#include "ops/kernel_attention.h"

namespace dga::testing {
namespace {

// Relative error of a tensor as a whole. The kernels round P, dS, the pooled keys and values, and their results to
// bf16: four roundings of at most 2^-9 each.
constexpr double kTolerance = 4.0 / 512;

double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor exact = expected.to(at::kDouble);
  return (actual.to(at::kDouble).sub(exact).norm() / exact.norm().clamp_min(1e-2)).item<double>();
}

// Kernels in bf16 against the reference in double, on the same bf16 inputs.
void expect_reference(const Heads& shape, AttentionConfig config, const SequenceLayout& layout) {
  SCOPED_TRACE(str("L ", shape.length, " heads ", shape.heads, "/", shape.kv_heads, " D ", shape.width, " ",
                   config::name_of(config.kind), " ", describe(config)));
  std::vector<at::Tensor> inputs, exact;
  for (const at::Tensor& x : random_heads(shape)) {
    inputs.push_back(x.mul(0.7).to(at::kCUDA, at::kBFloat16));
    exact.push_back(inputs.back().to(at::kDouble));
  }
  const at::Tensor dout = at::randn_like(inputs[0]);
  const auto run = [&](AttentionBackend backend, const std::vector<at::Tensor>& in) {
    config.backend = backend;
    const std::unique_ptr<Attention> attention = make_attention(config, 3, 7);
    return with_gradients(
        [&](const auto& q, const auto& k, const auto& v) { return attention->forward(q, k, v, layout); }, in,
        dout.to(in[0].scalar_type()));
  };
  const auto expected = run(AttentionBackend::reference, exact), actual = run(AttentionBackend::kernel, inputs);
  for (size_t i = 0; i < 4; ++i) {
    const double error = relative_error(actual[i], expected[i]);
    EXPECT_LE(error, kTolerance) << kTensorNames[i];
  }
}

class KernelBackendGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU in this machine";
    at::manual_seed(5);
    const at::Tensor probe = at::zeros({1, 1, 1, 128}, at::TensorOptions().device(at::kCUDA).dtype(at::kBFloat16));
    const std::string reason = kernel_attention_obstacle(probe, probe);
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
};

TEST_F(KernelBackendGpu, FullAttention) {
  for (const int64_t length : {1, 17, 129, 1000}) {
    expect_reference({2, length, 4, 2, 128}, full_config(AttentionBackend::kernel),
                     SequenceLayout::whole_rows(2, length));
  }
  const SequenceLayout packed{{{0, 3, 200, 201}, {0}}, {0, 450}};
  expect_reference({2, 450, 2, 2, 64}, full_config(AttentionBackend::kernel), packed);
}

TEST_F(KernelBackendGpu, WindowsWithFirstTokens) {
  AttentionConfig config;
  for (const AttentionKind kind : {AttentionKind::streaming, AttentionKind::longformer}) {
    config.kind = kind;
    for (const int64_t sinks : {0, 4, 200}) {
      config.sink_tokens = sinks;
      config.window = sinks == 4 ? 300 : 64;
      for (const int64_t length : {1, 129, 1000}) {
        expect_reference({2, length, 4, 2, 128}, config, SequenceLayout::whole_rows(2, length));
      }
      expect_reference({2, 450, 2, 2, 64}, config, SequenceLayout{{{0, 3, 200, 201}, {0}}, {0, 450}});
    }
  }
}

TEST_F(KernelBackendGpu, EveryRuleOverLengthsAndHeads) {
  for (const Selection selection : {Selection::global, Selection::causal, Selection::random, Selection::none}) {
    for (const int64_t length : {1, 17, 129, 1000}) {
      AttentionConfig config = dga_config(selection);
      config.local_window = 64;
      config.sampled_queries = 100;
      config.block_size = 32;
      for (const GroupBias bias : {GroupBias::none, GroupBias::entropy}) {
        config.group_bias = bias;
        expect_reference({2, length, 8, 2, 128}, config, SequenceLayout::whole_rows(2, length));
      }
    }
  }
}

TEST_F(KernelBackendGpu, TrainingLength) {
  AttentionConfig config = dga_config(Selection::global);
  config.sampled_queries = 1024;
  config.group_size = 16;
  config.focal_ratio = 0.1;
  for (const int64_t window : {0, 1024}) {
    config.local_window = window;
    for (const bool keep_lists : {true, false}) {
      config.keep_lists = keep_lists;
      expect_reference({1, 32768, 2, 1, 128}, config, SequenceLayout::whole_rows(1, 32768));
    }
  }
}

TEST_F(KernelBackendGpu, PackedDocumentsAndAblations) {
  const SequenceLayout packed{{{0, 3, 200, 201}, {0, 449}}, {0, 450}};
  for (const Selection selection : {Selection::global, Selection::causal, Selection::random, Selection::none}) {
    AttentionConfig config = dga_config(selection);
    config.local_window = 20;
    config.sampled_queries = 40;
    config.block_size = 64;
    config.local_blocks = 1;
    expect_reference({2, 450, 2, 1, 64}, config, packed);
    config.group_weights = GroupWeights::mean;
    config.group_size = 5;
    expect_reference({2, 450, 2, 1, 64}, config, packed);
    if (selection == Selection::causal) continue;
    config.complementary = false;
    expect_reference({2, 450, 2, 1, 64}, config, packed);
  }
}

TEST_F(KernelBackendGpu, ASecondPassTakesWhatTheFirstRemembers) {
  AttentionConfig config = dga_config(Selection::global);
  config.backend = AttentionBackend::kernel;
  const std::unique_ptr<Attention> attention = make_attention(config, 3, 7);
  const auto inputs = [] {
    std::vector<at::Tensor> heads;
    for (const at::Tensor& x : random_heads({1, 1000, 4, 2, 128})) heads.push_back(x.to(at::kCUDA, at::kBFloat16));
    return heads;
  };
  const auto run = [&](const std::vector<at::Tensor>& in, AttentionMemory& memory) {
    return attention->forward(in[0], in[1], in[2], SequenceLayout::whole_rows(1, 1000), &memory);
  };
  const std::vector<at::Tensor> in = inputs(), other = inputs();
  AttentionMemory memory, of_other;
  const at::Tensor first = run(in, memory), result_of_other = run(other, of_other);
  ASSERT_FALSE(memory.focal_bits.equal(of_other.focal_bits));
  const at::Tensor tables = memory.tables;
  ASSERT_TRUE(tables.defined());
  EXPECT_TRUE(run(in, memory).equal(first));
  EXPECT_TRUE(memory.tables.is_same(tables));  // nothing went to the device again
  // Another selection than its own is taken as it is.
  AttentionMemory foreign;
  foreign.focal_bits = memory.focal_bits;
  EXPECT_FALSE(run(other, foreign).equal(result_of_other));
  // A kept output is handed out again, whatever it holds.
  AttentionMemory kept;
  kept.keep_output = true;
  run(in, kept);
  kept.output.fill_(3);
  EXPECT_TRUE(run(in, kept).eq(3).all().item<bool>());
}

TEST_F(KernelBackendGpu, SameBitsTwiceAndInAnyOrderOfRows) {
  at::globalContext().setDeterministicAlgorithms(true, true);
  AttentionConfig config = dga_config(Selection::global);
  config.backend = AttentionBackend::kernel;
  config.local_window = 64;
  std::vector<at::Tensor> inputs, shuffled;
  const std::vector<int64_t> order = {2, 0, 1};
  const auto in_order = [&](const at::Tensor& x) { return x.index_select(0, at::tensor(order).to(at::kCUDA)); };
  for (const at::Tensor& x : random_heads({3, 1500, 4, 4, 128})) {
    inputs.push_back(x.to(at::kCUDA, at::kBFloat16));
    shuffled.push_back(in_order(inputs.back()));
  }
  const at::Tensor dout = at::randn_like(inputs[0]);
  const auto run = [&](const std::vector<at::Tensor>& in, const at::Tensor& gradient) {
    const std::unique_ptr<Attention> attention = make_attention(config, 0, 1);
    return with_gradients(
        [&](const auto& q, const auto& k, const auto& v) {
          return attention->forward(q, k, v, SequenceLayout::whole_rows(3, 1500));
        },
        in, gradient);
  };
  const auto first = run(inputs, dout), second = run(inputs, dout), other = run(shuffled, in_order(dout));
  at::globalContext().setDeterministicAlgorithms(false, false);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(first[i].equal(second[i])) << kTensorNames[i];
    EXPECT_TRUE(in_order(first[i]).equal(other[i])) << kTensorNames[i];
  }
}

// What a user is told; needs no GPU.
TEST(KernelBackend, IsRefusedInWordsWhereItCannotServe) {
  AttentionConfig config = dga_config(Selection::global);
  config.backend = AttentionBackend::kernel;
  const std::vector<at::Tensor> in = random_heads({1, 8, 2, 1, 64});
  const std::unique_ptr<Attention> attention = make_attention(config, 0, 1);
  try {
    attention->forward(in[0], in[1], in[2], SequenceLayout::whole_rows(1, 8));
    FAIL() << "tensors on a CPU were taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::config);
    EXPECT_NE(std::string(error.what()).find("attention.backend: reference"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace dga::testing

// The loss and gradients of a model at training length: CUDA kernels against the reference operations.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include <cmath>

#include "model/llama.h"
#include "ops/kernel_attention.h"

namespace dga {
namespace {

constexpr int64_t kLength = 32768, kVocabulary = 512;

LlamaConfig wide_head_config() {
  LlamaConfig config;
  config.vocab_size = kVocabulary;
  config.hidden_size = 256;
  config.intermediate_size = 512;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 2;
  config.num_key_value_heads = 2;
  config.head_dim = 128;
  config.max_position_embeddings = kLength;
  return config;
}

/// Loss and the gradients of all weights.
std::vector<at::Tensor> step(const Llama& model, const at::Tensor& tokens) {
  MemoryConfig memory;
  memory.recompute = Recompute::block;
  const at::Tensor hidden = model.forward(tokens, SequenceLayout::whole_rows(1, kLength), memory);
  const at::Tensor logits = at::linear(hidden, model.output_weight())[0].to(at::kFloat);
  const at::Tensor loss = at::cross_entropy_loss(logits.slice(0, 0, kLength - 1), tokens[0].slice(0, 1));
  loss.backward();
  std::vector<at::Tensor> results = {loss.detach()};
  for (const NamedParameter& parameter : model.parameters()) results.push_back(parameter.value.grad());
  return results;
}

class KernelStepGpu : public ::testing::TestWithParam<AttentionKind> {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU in this machine";
    const at::Tensor probe = at::zeros({1, 1, 1, 128}, at::TensorOptions().device(at::kCUDA).dtype(at::kBFloat16));
    const std::string reason = kernel_attention_obstacle(probe, probe);
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
};

// Judged by the reference in fp32: the kernels may err at most twice what the reference in bf16 errs.
TEST_P(KernelStepGpu, EqualsTheReferenceAtTrainingLength) {
  AttentionConfig attention;
  attention.kind = GetParam();
  attention.group_bias = GroupBias::entropy;
  const auto model = [&](AttentionBackend backend, at::ScalarType dtype) {
    attention.backend = backend;
    return Llama(wide_head_config(), attention, 5, dtype, at::kCUDA);
  };
  const Llama kernels = model(AttentionBackend::kernel, at::kBFloat16);
  const Llama plain = model(AttentionBackend::reference, at::kBFloat16);
  const Llama exact = model(AttentionBackend::reference, at::kFloat);
  {
    const at::NoGradGuard no_grad;
    const std::vector<NamedParameter> from = kernels.parameters(), to = exact.parameters();
    for (size_t i = 0; i < from.size(); ++i) to[i].value.copy_(from[i].value);
  }
  at::manual_seed(3);
  const at::Tensor tokens = at::randint(kVocabulary, {1, kLength}, at::TensorOptions().dtype(at::kLong)).to(at::kCUDA);
  const std::vector<at::Tensor> expected = step(exact, tokens), bf16 = step(plain, tokens);
  const std::vector<at::Tensor> actual = step(kernels, tokens);
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto error = [&](const at::Tensor& x) {
      return ((x.to(at::kDouble) - expected[i].to(at::kDouble)).norm() / expected[i].to(at::kDouble).norm())
          .item<double>();
    };
    const std::string name = i == 0 ? "loss" : kernels.parameters()[i - 1].name;
    // One number may err by chance far less than its bound: the rounding of one logit, 2^-9, averaged over the tokens.
    const double chance = i == 0 ? 1.0 / 512 / std::sqrt(static_cast<double>(kLength)) : 0.0;
    EXPECT_LE(error(actual[i]), 2 * error(bf16[i]) + chance) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, KernelStepGpu, ::testing::Values(AttentionKind::full, AttentionKind::dga));

}  // namespace
}  // namespace dga

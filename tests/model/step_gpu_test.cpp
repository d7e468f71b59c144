// A training step's forward and backward pass on a GPU: bf16 through the kernels, every memory plan, no waiting.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAFunctions.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include "loss/linear_cross_entropy.h"
#include "model/llama.h"
#include "reference_llama.h"

namespace dga {
namespace {

using Gradients = std::vector<at::Tensor>;

LlamaConfig kernel_sized_config() {
  LlamaConfig config = small_config();
  config.vocab_size = 301;
  config.hidden_size = 128;
  config.intermediate_size = 200;
  config.num_hidden_layers = 3;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 64;
  config.max_position_embeddings = 512;
  config.initializer_range = 0.1;
  return config;
}

class StepGpu : public ::testing::TestWithParam<AttentionKind> {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU in this machine";
    at::manual_seed(11);
    at::globalContext().setDeterministicAlgorithms(true, true);
    tokens_ = random_tokens(2, 300, 301);
    labels_ = random_tokens(1, 600, 301).view({-1});
    labels_.slice(0, 0, 600, 7).fill_(kNoLabel);
  }
  void TearDown() override { at::globalContext().setDeterministicAlgorithms(false, false); }

  Llama make_model(at::ScalarType type, at::Device device, Selection selection = Selection::global) const {
    AttentionConfig attention;
    attention.kind = GetParam();
    attention.selection = selection;
    attention.local_window = 64;
    attention.sampled_queries = 64;
    return Llama(kernel_sized_config(), attention, 5, type, device);
  }

  /// Loss and gradients of tokens_ and labels_, left on the device.
  Gradients run(const Llama& model, const MemoryConfig& memory) const {
    return run(model, memory, tokens_.to(model.device()), labels_.to(model.device()));
  }
  Gradients run(const Llama& model, const MemoryConfig& memory, const at::Tensor& tokens,
                const at::Tensor& labels) const {
    for (const NamedParameter& parameter : model.parameters()) parameter.value.mutable_grad() = at::Tensor();
    const at::Tensor hidden = model.forward(tokens, layout_, memory);
    const LossSum loss = linear_cross_entropy(hidden.flatten(0, 1), model.output_weight(), labels, {256, 1e-4});
    (loss.loss_sum / 500).backward();
    Gradients all = {loss.loss_sum.detach()};
    for (const NamedParameter& parameter : model.parameters()) all.push_back(parameter.value.grad());
    return all;
  }

  static std::vector<MemoryConfig> plans() {
    std::vector<MemoryConfig> all(7);
    all[0].recompute = Recompute::selective;
    for (size_t i = 1; i < all.size(); ++i) all[i].recompute = Recompute::block;
    all[2].recompute_layers = 2;
    all[3].keep_attention = false;
    all[4].offload = Offload::block_inputs;
    all[5].offload = Offload::block_inputs;
    all[5].keep_attention = false;
    all[6].offload = Offload::attention_inputs;
    return all;
  }

  const SequenceLayout layout_{{{0, 120}, {0}}, {0, 300}};
  at::Tensor tokens_, labels_;
};

TEST_P(StepGpu, ErrsAtMostTwiceWhatPlainOperationsErr) {
  // Selection none: rounding must not choose other focal tokens.
  const Llama exact = make_model(at::kBFloat16, at::kCPU, Selection::none);
  const Llama wide = make_model(at::kDouble, at::kCPU, Selection::none);
  const Llama gpu = make_model(at::kBFloat16, at::kCUDA, Selection::none);
  const std::vector<NamedParameter> rounded = exact.parameters(), doubles = wide.parameters();
  {
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < rounded.size(); ++i) doubles[i].value.copy_(rounded[i].value);
  }
  const Gradients expected = run(wide, {}), plain = run(exact, {}), actual = run(gpu, {});
  const auto error = [&](const Gradients& found, size_t i) {
    return (found[i].to(at::kCPU, at::kDouble) - expected[i]).norm().item<double>();
  };
  EXPECT_LE(error(actual, 0), 0.01 * expected[0].item<double>());
  for (size_t i = 1; i < expected.size(); ++i) {
    EXPECT_LE(error(actual, i), 2 * error(plain, i)) << rounded[i - 1].name;
  }
}

TEST_P(StepGpu, EveryPlanGivesTheSameBits) {
  const Llama model = make_model(at::kBFloat16, at::kCUDA);
  const Gradients kept = run(model, {});
  for (const MemoryConfig& plan : plans()) {
    SCOPED_TRACE(::testing::Message() << config::name_of(plan.recompute) << " " << config::name_of(plan.offload));
    for (int repeat = 0; repeat < 3; ++repeat) {
      const Gradients found = run(model, plan);
      for (size_t i = 0; i < kept.size(); ++i) EXPECT_TRUE(found[i].equal(kept[i])) << i;
    }
  }
}

TEST_P(StepGpu, TilesChangeRoundingAlone) {
  const Llama model = make_model(at::kBFloat16, at::kCUDA);
  const Gradients whole = run(model, {});
  MemoryConfig plan;
  plan.recompute = Recompute::block;
  plan.mlp_tile_tokens = 256;
  const Gradients tiled = run(model, plan);
  for (size_t i = 1; i < whole.size(); ++i) {
    const at::Tensor difference = tiled[i].to(at::kDouble) - whole[i].to(at::kDouble);
    EXPECT_LE(difference.norm().item<double>(), 0.02 * whole[i].to(at::kDouble).norm().item<double>()) << i;
  }
}

TEST_P(StepGpu, TheHostNeverWaits) {
  const Llama model = make_model(at::kBFloat16, at::kCUDA);
  const at::Tensor tokens = tokens_.cuda(), labels = labels_.cuda();
  std::vector<MemoryConfig> all = plans();
  all.emplace_back();
  for (const MemoryConfig& plan : all) {
    run(model, plan, tokens, labels);  // makes RoPE's table and the pinned memory
    torch::cuda::synchronize();
    auto& state = c10::cuda::warning_state();
    state.set_sync_debug_mode(c10::cuda::SyncDebugMode::L_ERROR);
    EXPECT_NO_THROW(run(model, plan, tokens, labels)) << config::name_of(plan.recompute);
    state.set_sync_debug_mode(c10::cuda::SyncDebugMode::L_DISABLED);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, StepGpu, ::testing::Values(AttentionKind::full, AttentionKind::dga));

}  // namespace
}  // namespace dga

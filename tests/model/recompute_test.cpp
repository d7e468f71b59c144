#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "model/llama.h"
#include "ops/gradient_sink.h"
#include "reference_llama.h"

namespace dga {
namespace {

using Gradients = std::map<std::string, at::Tensor>;

/// Gradients of a fixed function of two micro-batches; an absent one is an undefined tensor.
Gradients gradients(const Llama& model, const at::Tensor& tokens, const MemoryConfig& memory) {
  for (const NamedParameter& parameter : model.parameters()) parameter.value.mutable_grad() = at::Tensor();
  const SequenceLayout layout{{{0, 6}, {0}}, {0, 17}};
  for (const double scale : {1.0, 0.5}) {
    const at::Tensor hidden = model.forward(tokens, layout, memory);
    (at::linear(hidden, model.output_weight()).square().sum() * scale).backward();
  }
  Gradients all;
  for (const NamedParameter& parameter : model.parameters()) {
    all[parameter.name] = parameter.value.grad().defined() ? parameter.value.grad().clone() : at::Tensor();
  }
  return all;
}

/// Every plan but the default one.
std::vector<MemoryConfig> plans() {
  std::vector<MemoryConfig> all;
  for (const Recompute recompute : {Recompute::selective, Recompute::block}) {
    for (const std::optional<int64_t> layers : {std::optional<int64_t>(), std::optional<int64_t>(1)}) {
      MemoryConfig plan;
      plan.recompute = recompute;
      plan.recompute_layers = layers;
      all.push_back(plan);
    }
  }
  for (const Offload offload : {Offload::block_inputs, Offload::attention_inputs}) {
    all.push_back(all.back());
    all.back().offload = offload;
  }
  return all;
}

void expect_same_bits(const Gradients& a, const Gradients& b) {
  for (const auto& [name, gradient] : a) {
    ASSERT_EQ(gradient.defined(), b.at(name).defined()) << name;
    if (!gradient.defined()) continue;
    EXPECT_TRUE(gradient.equal(b.at(name))) << name;
  }
}

class RecomputeTest : public ::testing::TestWithParam<std::tuple<AttentionKind, at::ScalarType>> {
 protected:
  Llama make_model() const {
    AttentionConfig attention;
    attention.kind = std::get<0>(GetParam());
    attention.group_size = 3;
    attention.local_window = 2;
    LlamaConfig config = small_config();
    config.tie_word_embeddings = true;
    return Llama(config, attention, 5, std::get<1>(GetParam()), at::kCPU);
  }
};

TEST_P(RecomputeTest, GradientsAreBitIdentical) {
  at::manual_seed(3);
  const Llama model = make_model();
  const at::Tensor tokens = random_tokens(2, 17, 37);
  const Gradients kept = gradients(model, tokens, {});
  EXPECT_GT(kept.at("model.layers.0.self_attn.k_proj.weight").abs().max().item<double>(), 0.0);
  for (const MemoryConfig& plan : plans()) expect_same_bits(gradients(model, tokens, plan), kept);
}

TEST_P(RecomputeTest, FrozenWeightsStayWithoutGradient) {
  at::manual_seed(3);
  const Llama model = make_model();
  for (const NamedParameter& parameter : model.parameters()) {
    parameter.value.set_requires_grad(parameter.name.find("q_proj") != std::string::npos);
  }
  const at::Tensor tokens = random_tokens(2, 17, 37);
  const Gradients kept = gradients(model, tokens, {});
  EXPECT_TRUE(kept.at("model.layers.0.self_attn.q_proj.weight").defined());
  EXPECT_FALSE(kept.at("model.layers.0.self_attn.k_proj.weight").defined());
  for (const MemoryConfig& plan : plans()) expect_same_bits(gradients(model, tokens, plan), kept);
}

TEST_P(RecomputeTest, WeightsBehindAttentionTrainAlone) {
  at::manual_seed(3);
  const Llama model = make_model();
  for (const NamedParameter& parameter : model.parameters()) {
    parameter.value.set_requires_grad(parameter.name.find("up_proj") != std::string::npos);
  }
  const at::Tensor tokens = random_tokens(2, 17, 37);
  const Gradients kept = gradients(model, tokens, {});
  EXPECT_TRUE(kept.at("model.layers.0.mlp.up_proj.weight").defined());
  for (const MemoryConfig& plan : plans()) expect_same_bits(gradients(model, tokens, plan), kept);
}

TEST_P(RecomputeTest, TilesChangeRoundingAlone) {
  at::manual_seed(3);
  const Llama model = make_model();
  const at::Tensor tokens = random_tokens(2, 17, 37);
  const Gradients whole = gradients(model, tokens, {});
  const double unit = std::get<1>(GetParam()) == at::kFloat ? 0x1p-24 : 0x1p-9;
  for (const Recompute recompute : {Recompute::none, Recompute::selective, Recompute::block}) {
    MemoryConfig plan;
    plan.recompute = recompute;
    plan.mlp_tile_tokens = 10;  // of 34: three whole tiles and a smaller one
    for (const auto& [name, gradient] : gradients(model, tokens, plan)) {
      const at::Tensor expected = whole.at(name).to(at::kDouble);
      const double error = (gradient.to(at::kDouble) - expected).norm().item<double>();
      EXPECT_LE(error, 64 * unit * expected.norm().item<double>()) << name;
    }
  }
}

TEST_P(RecomputeTest, SinksReceiveTheSums) {
  at::manual_seed(3);
  const Llama model = make_model();
  const at::Tensor tokens = random_tokens(2, 17, 37);
  const Gradients kept = gradients(model, tokens, {});
  const double unit = std::get<1>(GetParam()) == at::kFloat ? 0x1p-24 : 0x1p-9;
  std::vector<MemoryConfig> all = plans();
  all.emplace_back();
  all.back().mlp_tile_tokens = 10;
  for (const MemoryConfig& plan : all) {
    std::map<std::string, std::shared_ptr<GradientSink>> sinks;
    for (const NamedParameter& parameter : model.parameters()) {
      parameter.value.mutable_grad() = at::Tensor();
      const at::Tensor sum = at::full(parameter.value.sizes(), std::nan(""), at::kFloat);
      sinks[parameter.name] = std::make_shared<GradientSink>();
      sinks[parameter.name]->sum = sum;
      attach_gradient_sink(parameter.value, sinks[parameter.name]);
    }
    for (const auto& [name, gradient] : gradients(model, tokens, plan)) EXPECT_FALSE(gradient.defined()) << name;
    for (const NamedParameter& parameter : model.parameters()) {
      detach_gradient_sink(parameter.value);
      const GradientSink& sink = *sinks[parameter.name];
      ASSERT_TRUE(sink.filled) << parameter.name;
      const at::Tensor expected = kept.at(parameter.name).to(at::kDouble);
      const double error = (sink.sum.to(at::kDouble) - expected).norm().item<double>();
      EXPECT_LE(error, 64 * unit * expected.norm().item<double>()) << parameter.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, RecomputeTest,
                         ::testing::Combine(::testing::Values(AttentionKind::full, AttentionKind::dga),
                                            ::testing::Values(at::kFloat, at::kBFloat16)));

TEST(Recompute, KeepsOnlyTheInputsOfBlocks) {
  const Llama model(small_config(), {}, 5, at::kFloat, at::kCPU);
  MemoryConfig plan;
  plan.recompute = Recompute::block;
  const at::Tensor hidden = model.forward(random_tokens(1, 8, 37), SequenceLayout::whole_rows(1, 8), plan);
  // The final norm, one node per block and the embedding: nothing of the blocks' insides.
  int64_t nodes = 0;
  for (auto node = hidden.grad_fn(); node; ++nodes) {
    const auto& edges = node->next_edges();
    node = edges.empty() ? nullptr : edges[0].function;
  }
  EXPECT_LE(nodes, 2 + model.config().num_hidden_layers + 2);
}

/// Counts how often it runs.
class CountingAttention : public Attention {
 public:
  explicit CountingAttention(std::unique_ptr<Attention> attention) : attention_(std::move(attention)) {}
  at::Tensor forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const SequenceLayout& layout,
                     AttentionMemory* memory) const override {
    ++runs;
    return attention_->forward(q, k, v, layout, memory);
  }
  double visible_pairs(int64_t length) const override { return attention_->visible_pairs(length); }
  bool looks_ahead() const override { return attention_->looks_ahead(); }
  std::unique_ptr<AttentionCache> make_cache() const override { return attention_->make_cache(); }

  mutable int runs = 0;

 private:
  std::unique_ptr<Attention> attention_;
};

TEST(Recompute, AttentionRunsTwiceUnderBlockAlone) {
  at::manual_seed(4);
  const CountingAttention attention(make_attention({}, 0, 1));
  BlockContext context;
  context.heads = 2;
  context.kv_heads = 1;
  context.head_dim = 4;
  context.rms_norm_eps = 1e-5;
  context.angles = {at::randn({1, 6, 4}), at::randn({1, 6, 4})};
  context.layout = std::make_shared<const SequenceLayout>(SequenceLayout::whole_rows(1, 6));
  context.attention = &attention;
  const auto weight = [](at::IntArrayRef shape) { return at::randn(shape).set_requires_grad(true); };
  const BlockWeights weights{weight({8}), weight({8, 8}),  weight({4, 8}),  weight({4, 8}), weight({8, 8}),
                             weight({8}), weight({12, 8}), weight({12, 8}), weight({8, 12})};
  for (const Recompute recompute : {Recompute::none, Recompute::selective, Recompute::block}) {
    attention.runs = 0;
    const BlockPlan plan{recompute, std::make_shared<HostStore>(false)};
    block_forward(at::randn({1, 6, 8}), weights, context, plan).sum().backward();
    EXPECT_EQ(attention.runs, recompute == Recompute::block ? 2 : 1);
  }
}

}  // namespace
}  // namespace dga

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "model/llama.h"
#include "reference_llama.h"

namespace dga {
namespace {

using Gradients = std::map<std::string, at::Tensor>;

/// Gradients of a fixed function of two micro-batches; an absent one is an undefined tensor.
Gradients gradients(const Llama& model, const at::Tensor& tokens, Recompute recompute) {
  for (const NamedParameter& parameter : model.parameters()) parameter.value.mutable_grad() = at::Tensor();
  const SequenceLayout layout{{{0, 6}, {0}}, {0, 17}};
  for (const double scale : {1.0, 0.5}) {
    const at::Tensor hidden = model.forward(tokens, layout, recompute);
    (at::linear(hidden, model.output_weight()).square().sum() * scale).backward();
  }
  Gradients all;
  for (const NamedParameter& parameter : model.parameters()) {
    all[parameter.name] = parameter.value.grad().defined() ? parameter.value.grad().clone() : at::Tensor();
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
  const Gradients kept = gradients(model, tokens, Recompute::none);
  EXPECT_GT(kept.at("model.layers.0.self_attn.k_proj.weight").abs().max().item<double>(), 0.0);
  expect_same_bits(gradients(model, tokens, Recompute::block), kept);
}

TEST_P(RecomputeTest, FrozenWeightsStayWithoutGradient) {
  at::manual_seed(3);
  const Llama model = make_model();
  for (const NamedParameter& parameter : model.parameters()) {
    parameter.value.set_requires_grad(parameter.name.find("q_proj") != std::string::npos);
  }
  const at::Tensor tokens = random_tokens(2, 17, 37);
  const Gradients kept = gradients(model, tokens, Recompute::none);
  EXPECT_TRUE(kept.at("model.layers.0.self_attn.q_proj.weight").defined());
  EXPECT_FALSE(kept.at("model.layers.0.self_attn.k_proj.weight").defined());
  expect_same_bits(gradients(model, tokens, Recompute::block), kept);
}

INSTANTIATE_TEST_SUITE_P(Kinds, RecomputeTest,
                         ::testing::Combine(::testing::Values(AttentionKind::full, AttentionKind::dga),
                                            ::testing::Values(at::kFloat, at::kBFloat16)));

TEST(Recompute, KeepsOnlyTheInputsOfBlocks) {
  const Llama model(small_config(), {}, 5, at::kFloat, at::kCPU);
  const at::Tensor hidden = model.forward(random_tokens(1, 8, 37), SequenceLayout::whole_rows(1, 8), Recompute::block);
  // The final norm, one node per block and the embedding: nothing of the blocks' insides.
  int64_t nodes = 0;
  for (auto node = hidden.grad_fn(); node; ++nodes) {
    const auto& edges = node->next_edges();
    node = edges.empty() ? nullptr : edges[0].function;
  }
  EXPECT_LE(nodes, 2 + model.config().num_hidden_layers + 2);
}

}  // namespace
}  // namespace dga

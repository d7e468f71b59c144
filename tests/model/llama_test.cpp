#include "model/llama.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <set>

#include "reference_llama.h"
#include "support/tensor_compare.h"
#include "test_folder.h"

namespace dga {
namespace {

using testing::compare;

Llama small_model(at::ScalarType dtype, LlamaConfig config = small_config(), AttentionConfig attention = {}) {
  return Llama(config, attention, /*seed=*/5, dtype, at::kCPU);
}

class LlamaTest : public ::testing::Test {
 protected:
  void SetUp() override { at::manual_seed(7); }
};

TEST_F(LlamaTest, EqualsTheDefinition) {
  // In double only RoPE's fp32 angles differ from the reference.
  const Llama model = small_model(at::kDouble);
  const at::Tensor tokens = random_tokens(2, 9, 37);
  const at::Tensor actual = model.forward(tokens, SequenceLayout::whole_rows(2, 9));
  ASSERT_EQ(actual.sizes(), (std::vector<int64_t>{2, 9, 24}));
  for (int64_t row = 0; row < 2; ++row) {
    EXPECT_TRUE(compare(actual[row], reference_llama(weights_in_double(model), model.config(), tokens[row]), 5e-6));
  }
}

TEST_F(LlamaTest, EqualsTheDefinitionInSinglePrecision) {
  const Llama model = small_model(at::kFloat);
  const at::Tensor tokens = random_tokens(1, 33, 37);
  const at::Tensor actual = model.forward(tokens, SequenceLayout::whole_rows(1, 33));
  const at::Tensor expected = reference_llama(weights_in_double(model), model.config(), tokens[0]);
  EXPECT_TRUE(compare(actual[0], expected.to(at::kFloat), 2e-5));
}

TEST_F(LlamaTest, GradientsEqualTheDefinitions) {
  const Llama model = small_model(at::kDouble);
  const at::Tensor tokens = random_tokens(1, 7, 37);
  const at::Tensor direction = at::randn({7, 24}, at::kDouble);
  (model.forward(tokens, SequenceLayout::whole_rows(1, 7))[0] * direction).sum().backward();
  Weights weights = weights_in_double(model);
  for (auto& [name, weight] : weights) weight.set_requires_grad(true);
  (reference_llama(weights, model.config(), tokens[0]) * direction).sum().backward();
  for (const NamedParameter& parameter : model.parameters()) {
    if (parameter.name == "lm_head.weight") continue;  // not part of the hidden states
    EXPECT_TRUE(compare(parameter.value.grad(), weights.at(parameter.name).grad(), 1e-4)) << parameter.name;
  }
}

TEST_F(LlamaTest, PackedDocumentsAreIndependent) {
  for (const AttentionKind kind : {AttentionKind::full, AttentionKind::dga}) {
    AttentionConfig attention;
    attention.kind = kind;
    attention.group_size = 2;
    attention.local_window = 1;
    const Llama model = small_model(at::kDouble, small_config(), attention);
    const at::Tensor tokens = random_tokens(1, 12, 37);
    const SequenceLayout packed{{{0, 5}}, {0}};
    const at::Tensor together = model.forward(tokens, packed);
    const at::Tensor first = model.forward(tokens.narrow(1, 0, 5), SequenceLayout::whole_rows(1, 5));
    const at::Tensor second = model.forward(tokens.narrow(1, 5, 7), SequenceLayout{{{0}}, {5}});
    EXPECT_TRUE(compare(together, at::cat({first, second}, 1), 1e-12)) << static_cast<int>(kind);
    EXPECT_FALSE(compare(together, model.forward(tokens, SequenceLayout::whole_rows(1, 12)), 1e-3));
  }
}

TEST_F(LlamaTest, DecodingEqualsOnePass) {
  const Llama model = small_model(at::kDouble);
  const at::Tensor tokens = random_tokens(1, 11, 37);
  const at::Tensor whole = model.forward(tokens, SequenceLayout::whole_rows(1, 11));
  ModelCache cache = model.make_cache();
  std::vector<at::Tensor> parts;
  for (const auto& [first, count] : std::vector<std::pair<int64_t, int64_t>>{{0, 4}, {4, 1}, {5, 1}, {6, 5}}) {
    parts.push_back(model.decode(tokens.narrow(1, first, count), cache));
  }
  EXPECT_EQ(cache.length, 11);
  EXPECT_TRUE(compare(at::cat(parts, 1), whole.detach(), 1e-10));
}

TEST_F(LlamaTest, DecodingUnderTheCausalRuleEqualsOnePass) {
  AttentionConfig attention;
  attention.kind = AttentionKind::dga;
  attention.selection = Selection::causal;
  attention.block_size = 4;
  attention.local_blocks = 1;
  attention.group_size = 2;
  const Llama model = small_model(at::kDouble, small_config(), attention);
  const at::Tensor tokens = random_tokens(1, 19, 37);
  const at::Tensor whole = model.forward(tokens, SequenceLayout::whole_rows(1, 19));
  ModelCache cache = model.make_cache();
  std::vector<at::Tensor> parts = {model.decode(tokens.narrow(1, 0, 6), cache)};
  for (int64_t t = 6; t < 19; ++t) parts.push_back(model.decode(tokens.narrow(1, t, 1), cache));
  EXPECT_TRUE(compare(at::cat(parts, 1), whole.detach(), 1e-10));
}

TEST_F(LlamaTest, KindsThatMoveFirstTokensSeeThemAtTheSameDistanceEverywhere) {
  // Of one layer the last token's state is a function of what it sees and at what distance: the first three tokens and
  // the last five, however many lie between, unless the first ones keep their positions.
  LlamaConfig config = small_config();
  config.num_hidden_layers = 1;
  config.rope_scaling.type = RopeType::yarn;
  config.rope_scaling.factor = 4;
  config.rope_scaling.original_max_position_embeddings = 16;
  AttentionConfig attention;
  attention.sink_tokens = 3;
  attention.window = 5;
  const auto last_state = [&](int64_t between) {
    const Llama model = small_model(at::kDouble, config, attention);
    const at::Tensor first = at::arange(1, 4), filler = at::full({between}, 7, at::kLong), last = at::arange(10, 15);
    const at::Tensor tokens = at::cat({first, filler, last}).unsqueeze(0);
    const at::Tensor state =
        model.forward(tokens, SequenceLayout::whole_rows(1, tokens.size(1))).select(1, -1).detach();
    ModelCache cache = model.make_cache();
    model.decode(tokens.narrow(1, 0, tokens.size(1) - 1), cache);
    EXPECT_TRUE(compare(model.decode(tokens.narrow(1, tokens.size(1) - 1, 1), cache).select(1, 0), state, 1e-10));
    return state;
  };
  attention.kind = AttentionKind::lm_infinite;
  EXPECT_TRUE(compare(last_state(40), last_state(2), 1e-6));  // the model's own angles are fp32
  attention.kind = AttentionKind::streaming;
  EXPECT_FALSE(compare(last_state(40), last_state(2), 1e-3));
  attention.sink_positions = SinkPositions::cache;
  EXPECT_TRUE(compare(last_state(40), last_state(2), 1e-6));
}

TEST_F(LlamaTest, TheGlobalRuleIsRefusedForDecoding) {
  AttentionConfig attention;
  attention.kind = AttentionKind::dga;
  const Llama model = small_model(at::kFloat, small_config(), attention);
  EXPECT_TRUE(model.looks_ahead());
  EXPECT_ERROR(model.make_cache(), "global");
}

TEST_F(LlamaTest, NamesShapesAndCountAreHuggingFaces) {
  LlamaConfig config = small_config();
  for (const bool tied : {false, true}) {
    config.tie_word_embeddings = tied;
    const Llama model = small_model(at::kFloat, config);
    int64_t count = 0;
    std::set<std::string> names;
    for (const NamedParameter& parameter : model.parameters()) {
      count += parameter.value.numel();
      EXPECT_TRUE(names.insert(parameter.name).second) << parameter.name;
      EXPECT_TRUE(parameter.value.requires_grad() && parameter.value.is_leaf()) << parameter.name;
    }
    EXPECT_EQ(count, config.parameter_count());
    EXPECT_EQ(names.contains("lm_head.weight"), !tied);
    for (const char* name : {"model.embed_tokens.weight", "model.norm.weight", "model.layers.1.input_layernorm.weight",
                             "model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.k_proj.weight",
                             "model.layers.1.self_attn.v_proj.weight", "model.layers.1.self_attn.o_proj.weight",
                             "model.layers.1.post_attention_layernorm.weight", "model.layers.1.mlp.gate_proj.weight",
                             "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"}) {
      EXPECT_TRUE(names.contains(name)) << name;
    }
    EXPECT_EQ(model.output_weight().sizes(), (std::vector<int64_t>{37, 24}));
    EXPECT_EQ(model.output_weight().data_ptr() == model.parameters()[0].value.data_ptr(), tied);
  }
}

TEST_F(LlamaTest, InitialWeightsDependOnSeedAndNameAlone) {
  LlamaConfig deeper = small_config();
  deeper.num_hidden_layers = 3;
  const Llama first = small_model(at::kFloat);
  at::rand({100});  // the global generator plays no part
  const Llama second = small_model(at::kFloat, deeper);
  std::map<std::string, at::Tensor> by_name;
  for (const NamedParameter& parameter : second.parameters()) by_name[parameter.name] = parameter.value;
  for (const NamedParameter& parameter : first.parameters()) {
    EXPECT_TRUE(parameter.value.equal(by_name.at(parameter.name))) << parameter.name;
  }
  const Llama other(small_config(), {}, /*seed=*/6, at::kFloat, at::kCPU);
  EXPECT_FALSE(first.output_weight().equal(other.output_weight()));
  EXPECT_FALSE(
      by_name.at("model.layers.0.self_attn.k_proj.weight").equal(by_name.at("model.layers.0.self_attn.v_proj.weight")));
  EXPECT_NEAR(first.output_weight().std().item<double>(), 0.3, 0.03);
  EXPECT_NEAR(first.output_weight().mean().item<double>(), 0.0, 0.03);
  EXPECT_TRUE(by_name.at("model.norm.weight").equal(at::ones({24})));
  EXPECT_TRUE(small_model(at::kBFloat16).output_weight().equal(first.output_weight().to(at::kBFloat16)));
}

TEST_F(LlamaTest, VisiblePairsAreSummedOverLayers) {
  const Llama model = small_model(at::kFloat);
  EXPECT_DOUBLE_EQ(model.visible_pairs_per_token(9), 2 * 5.0);
  EXPECT_FALSE(model.looks_ahead());
}

TEST_F(LlamaTest, WrongInputsAreNamed) {
  const Llama model = small_model(at::kFloat);
  EXPECT_ERROR(model.forward(at::zeros({4}, at::kLong), SequenceLayout::whole_rows(1, 4)), "tokens must be [B, L]");
  EXPECT_ERROR(model.forward(at::zeros({1, 4}, at::kInt), SequenceLayout::whole_rows(1, 4)), "int64");
  EXPECT_NE(error_of([&] { model.forward(at::zeros({2, 4}, at::kLong), SequenceLayout::whole_rows(1, 4)); }), "");
}

}  // namespace
}  // namespace dga

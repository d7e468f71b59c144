#include "decode/generate.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>

#include "support/tensor_compare.h"
#include "util/error.h"

namespace dga {
namespace {

using testing::compare;

LlamaConfig small_llama() {
  LlamaConfig config;
  config.vocab_size = 61;
  config.hidden_size = 32;
  config.intermediate_size = 48;
  config.num_hidden_layers = 3;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 8;
  config.initializer_range = 0.4;
  return config;
}

AttentionConfig causal_rule() {
  AttentionConfig attention;
  attention.kind = AttentionKind::dga;
  attention.selection = Selection::causal;
  attention.focal_ratio = 0.25;
  attention.group_size = 3;
  attention.block_size = 4;
  attention.local_blocks = 1;
  attention.group_bias = GroupBias::entropy;
  return attention;
}

AttentionConfig mixed_layers() {
  AttentionConfig attention = causal_rule();
  attention.layers = {{"1", AttentionKind::full}};
  return attention;
}

Llama make_model(const AttentionConfig& attention) { return {small_llama(), attention, 7, at::kFloat, at::kCPU}; }

std::vector<int32_t> some_prompt(int64_t count) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>((i * i * 11 + 5 * i + 3) % 61));
  return tokens;
}

at::Tensor as_row(const std::vector<int32_t>& tokens) {
  return at::tensor(std::vector<int64_t>(tokens.begin(), tokens.end())).unsqueeze(0);
}

/// Logits [L, V] of one pass over the whole sequence.
at::Tensor teacher_forced(const Llama& model, const std::vector<int32_t>& tokens) {
  const at::NoGradGuard no_grad;
  const at::Tensor row = as_row(tokens);
  return at::matmul(model.forward(row, SequenceLayout::whole_rows(1, row.size(1))), model.output_weight().t())[0];
}

class Decoding : public ::testing::TestWithParam<AttentionConfig (*)()> {};

TEST_P(Decoding, StepsGiveTheLogitsOfOnePass) {
  const Llama model = make_model(GetParam()());
  const std::vector<int32_t> tokens = some_prompt(30);
  const at::Tensor expected = teacher_forced(model, tokens);
  for (const int64_t prefill : {1, 4, 9, 30}) {
    const at::NoGradGuard no_grad;
    ModelCache cache = model.make_cache();
    std::vector<at::Tensor> hidden{model.decode(as_row(tokens).slice(1, 0, prefill), cache)};
    for (int64_t t = prefill; t < 30; ++t) hidden.push_back(model.decode(as_row(tokens).slice(1, t, t + 1), cache));
    const at::Tensor logits = at::matmul(at::cat(hidden, 1), model.output_weight().t())[0];
    EXPECT_TRUE(compare(logits, expected, 2e-4)) << "prefill of " << prefill;
  }
}

TEST_P(Decoding, GreedyTextIsTheArgmaxOfTeacherForcedPasses) {
  const Llama model = make_model(GetParam()());
  GenerateOptions options;
  options.max_new_tokens = 20;
  options.sampling.temperature = 0;
  const std::vector<int32_t> generated = generate(model, some_prompt(11), options);
  std::vector<int32_t> tokens = some_prompt(11);
  for (int i = 0; i < 20; ++i) {
    tokens.push_back(static_cast<int32_t>(teacher_forced(model, tokens)[-1].argmax().item<int64_t>()));
  }
  EXPECT_EQ(generated, std::vector<int32_t>(tokens.begin() + 11, tokens.end()));
}

INSTANTIATE_TEST_SUITE_P(Kinds, Decoding,
                         ::testing::Values(
                             +[] { return AttentionConfig{}; }, &causal_rule, &mixed_layers));

TEST(Generate, StopsAtAStopTokenWithoutReturningIt) {
  const Llama model = make_model({});
  GenerateOptions options;
  options.max_new_tokens = 12;
  const std::vector<int32_t> all = generate(model, some_prompt(5), options);
  ASSERT_EQ(all.size(), 12U);
  options.stop_tokens = {all[6], 99};
  const size_t first = std::find(all.begin(), all.end(), all[6]) - all.begin();
  std::vector<int32_t> seen;
  const std::vector<int32_t> stopped =
      generate(model, some_prompt(5), options, [&](int32_t token) { seen.push_back(token); });
  EXPECT_EQ(stopped, std::vector<int32_t>(all.begin(), all.begin() + static_cast<int64_t>(first)));
  EXPECT_EQ(seen, stopped);
}

TEST(Generate, SeedDecidesTheText) {
  const Llama model = make_model({});
  GenerateOptions options;
  options.max_new_tokens = 30;
  options.sampling.seed = 1;
  const std::vector<int32_t> first = generate(model, some_prompt(3), options);
  EXPECT_EQ(generate(model, some_prompt(3), options), first);
  options.sampling.seed = 2;
  EXPECT_NE(generate(model, some_prompt(3), options), first);
}

TEST(Generate, NoNewTokensIsAnEmptyText) {
  GenerateOptions options;
  options.max_new_tokens = 0;
  EXPECT_TRUE(generate(make_model({}), some_prompt(3), options).empty());
}

std::string error_of(const std::function<void()>& action, ExitCode expected) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), expected) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

TEST(Generate, RefusesTheGlobalRuleByName) {
  AttentionConfig attention = causal_rule();
  attention.selection = Selection::global;
  const Llama model = make_model(attention);
  const std::string message = error_of([&] { generate(model, some_prompt(3), {}); }, ExitCode::config);
  EXPECT_NE(message.find("global"), std::string::npos) << message;
}

TEST(Generate, RefusesPromptsThatAreNone) {
  const Llama model = make_model({});
  error_of([&] { generate(model, {}, {}); }, ExitCode::input);
  const std::string message = error_of([&] { generate(model, {1, 2, 61}, {}); }, ExitCode::input);
  EXPECT_NE(message.find("token 2"), std::string::npos) << message;
}

}  // namespace
}  // namespace dga

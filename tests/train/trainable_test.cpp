#include "train/trainable.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "util/error.h"

namespace dga {
namespace {

std::vector<NamedParameter> parameters() {
  std::vector<NamedParameter> all;
  for (const char* name : {"model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight",
                           "model.layers.10.self_attn.q_proj.weight", "model.norm.weight", "lm_head.weight"}) {
    all.push_back({name, at::zeros({2})});
  }
  return all;
}

std::vector<std::string> selected(const std::vector<std::string>& patterns) {
  std::vector<std::string> names;
  for (const TrainedParameter& parameter : select_trainable(parameters(), patterns)) names.push_back(parameter.name);
  return names;
}

TEST(SelectTrainable, MatchesPatterns) {
  EXPECT_EQ(selected({"*"}).size(), 5U);
  EXPECT_EQ(selected({"*.q_proj.weight"}).size(), 2U);
  EXPECT_EQ(selected({"model.layers.?.*"}), std::vector<std::string>{"model.layers.0.self_attn.q_proj.weight"});
  EXPECT_EQ(selected({"lm_head.weight", "*norm*"}), (std::vector<std::string>{"model.norm.weight", "lm_head.weight"}));
}

TEST(SelectTrainable, SetsWhoNeedsGradients) {
  const std::vector<NamedParameter> all = parameters();
  for (const NamedParameter& parameter : all) at::Tensor(parameter.value).set_requires_grad(true);
  const auto trained = select_trainable(all, {"*norm*"});
  for (const NamedParameter& parameter : all) {
    EXPECT_EQ(parameter.value.requires_grad(), parameter.name == "model.norm.weight") << parameter.name;
  }
  EXPECT_TRUE(trained[0].value.is_same(all[3].value));
}

TEST(SelectTrainable, PatternWithoutAMatchIsNamed) {
  try {
    selected({"*", "model.layer.*"});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::config);
    EXPECT_NE(std::string(error.what()).find("model.layer.*"), std::string::npos) << error.what();
  }
}

TEST(TrainedThroughLayers, CountsWhatAForwardPassHasUsed) {
  const auto counts = [](const std::vector<std::string>& patterns) {
    return trained_through_layers(select_trainable(parameters(), patterns), 11);
  };
  // The embedding and layer 0; layers 1 to 9 have nothing here; layer 10; the norm and the output weight.
  EXPECT_EQ(counts({"*"}), (std::vector<size_t>{2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 5}));
  EXPECT_EQ(counts({"*q_proj*"}), (std::vector<size_t>{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2}));
  EXPECT_EQ(counts({"lm_head.weight"}), (std::vector<size_t>{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}));
}

}  // namespace
}  // namespace dga

#include "model/config.h"

#include <gtest/gtest.h>

#include <cmath>

#include "config/load.h"
#include "test_folder.h"

namespace dga {
namespace {

/// A file with a model section alone.
struct OnlyModel {
  ModelConfig model;
  void fields(config::Fields& f) { f.section("model", model, "model"); }
};

ModelConfig read(const std::vector<std::string>& assignments) {
  config::Document document("", assignments);
  OnlyModel file;
  document.read_into(file);
  return file.model;
}

std::vector<std::string> small_model(std::vector<std::string> more = {}) {
  std::vector<std::string> all = {"model.vocab_size=10",         "model.hidden_size=8",
                                  "model.intermediate_size=12",  "model.num_hidden_layers=2",
                                  "model.num_attention_heads=4", "model.num_key_value_heads=2"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

/// The whole error text, all lines.
std::string problems(const std::vector<std::string>& assignments) {
  return error_of([&] { read(assignments); });
}

TEST(ModelConfig, ShapeWithDefaults) {
  const LlamaConfig config = resolve_model(read(small_model()));
  EXPECT_EQ(config.head_dim, 2);
  EXPECT_EQ(config.num_key_value_heads, 2);
  EXPECT_EQ(config.max_position_embeddings, 2048);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_EQ(config.rope_scaling.type, RopeType::none);
  EXPECT_FALSE(config.tie_word_embeddings);
}

TEST(ModelConfig, CountsByHand) {
  LlamaConfig config = resolve_model(read(small_model()));
  // A layer: q and o 8 x 8 each, k and v 8 x 4 each, three of 8 x 12, two norms of 8.
  const int64_t layer = 2 * 64 + 2 * 32 + 3 * 96 + 16;
  EXPECT_EQ(config.parameter_count(), 2 * layer + 8 + 2 * 80);
  EXPECT_EQ(config.matmul_parameter_count(), 2 * (layer - 16) + 80);
  EXPECT_EQ(flops_per_token(config, 0.0), 6.0 * static_cast<double>(config.matmul_parameter_count()));
  EXPECT_EQ(flops_per_token(config, 100.0) - flops_per_token(config, 0.0), 12.0 * 8 * 100);
  config.tie_word_embeddings = true;
  EXPECT_EQ(config.parameter_count(), 2 * layer + 8 + 80);
  EXPECT_EQ(config.matmul_parameter_count(), 2 * (layer - 16) + 80);
}

TEST(ModelConfig, ShapeRulesNameTheField) {
  EXPECT_NE(problems({"model.hidden_size=8"}).find("vocab_size"), std::string::npos);
  EXPECT_NE(problems({"model.hidden_size=8"}).find("num_attention_heads"), std::string::npos);
  EXPECT_NE(problems(small_model({"model.head_dim=3"})).find("even head_dim"), std::string::npos);
  EXPECT_NE(problems(small_model({"model.num_key_value_heads=3"})).find("must divide num_attention_heads"),
            std::string::npos);
  EXPECT_NE(problems(small_model({"model.hidden_size=10", "model.head_dim=2"})).find("multiple of num_attention_heads"),
            std::string::npos);
  EXPECT_NE(problems({"model.path=x", "model.hidden_size=8", "model.head_dim=2"}).find("hidden_size"),
            std::string::npos);
}

TEST(ModelConfig, RopeScalingNeedsWhatItsTypeUses) {
  const std::string type = "model.rope_scaling.type=";
  EXPECT_NE(problems(small_model({type + "linear"})).find("factor"), std::string::npos);
  EXPECT_NE(problems(small_model({"model.rope_scaling.factor=2"})).find("has no effect"), std::string::npos);
  EXPECT_NE(problems(small_model({type + "linear", "model.rope_scaling.factor=2", "model.rope_scaling.beta_fast=2"}))
                .find("it belongs to yarn"),
            std::string::npos);
  EXPECT_NE(problems(small_model({type + "ntk", "model.rope_scaling.factor=2"})).find("head_dim above 2"),
            std::string::npos);
}

TEST(ModelConfig, AScaledModelReachesFurther) {
  const LlamaConfig config =
      resolve_model(read(small_model({"model.max_position_embeddings=100", "model.rope_scaling.type=yarn",
                                      "model.rope_scaling.factor=4", "model.rope_theta=5e5"})));
  EXPECT_EQ(config.rope_scaling.type, RopeType::yarn);
  EXPECT_EQ(config.rope_scaling.original_max_position_embeddings, 100);
  EXPECT_EQ(config.rope_theta, 5e5);
}

class ModelConfigFolder : public FolderTest {};

TEST_F(ModelConfigFolder, RopeOfTheRunGoesAboveTheFolders) {
  write("config.json",
        R"({"model_type": "llama", "vocab_size": 10, "hidden_size": 16, "intermediate_size": 12,
            "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64, "rope_theta": 20000.0,
            "rope_scaling": {"type": "linear", "factor": 2.0}})");
  const std::string path = "model.path=" + folder_.string();
  EXPECT_EQ(resolve_model(read({path})).rope_scaling.type, RopeType::linear);
  EXPECT_EQ(resolve_model(read({path})).rope_theta, 20000.0);
  EXPECT_EQ(resolve_model(read({path, "model.rope_scaling.type=none"})).rope_scaling, RopeScaling{});
  const LlamaConfig stretched = resolve_model(
      read({path, "model.rope_scaling.type=yarn", "model.rope_scaling.factor=8", "model.rope_theta=1e6"}));
  EXPECT_EQ(stretched.rope_scaling.original_max_position_embeddings, 64);
  EXPECT_EQ(stretched.max_position_embeddings, 512);
  EXPECT_EQ(stretched.rope_theta, 1e6);
  EXPECT_EQ(resolve_model(read({path, "model.max_position_embeddings=4096"})).max_position_embeddings, 4096);
}

}  // namespace
}  // namespace dga

#include "model/hf_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "config/load.h"
#include "model/attention_record.h"
#include "test_folder.h"

namespace dga {
namespace {

using nlohmann::json;

json plain() {
  return {{"model_type", "llama"},    {"hidden_act", "silu"},     {"vocab_size", 100},
          {"hidden_size", 32},        {"intermediate_size", 64},  {"num_hidden_layers", 2},
          {"num_attention_heads", 4}, {"num_key_value_heads", 2}, {"max_position_embeddings", 128},
          {"rms_norm_eps", 1e-5},     {"rope_theta", 20000.0},    {"tie_word_embeddings", true},
          {"torch_dtype", "bfloat16"}};
}

class HfConfig : public FolderTest {
 protected:
  LlamaConfig read(const json& object) const {
    write("config.json", object.dump());
    return read_hf_config(folder_);
  }
  LlamaConfig read_with(const std::string& key, const json& value) const {
    json object = plain();
    object[key] = value;
    return read(object);
  }
};

TEST_F(HfConfig, Transformers4Form) {
  json object = plain();
  object["rope_scaling"] = {{"type", "linear"}, {"factor", 4}};
  const LlamaConfig config = read(object);
  EXPECT_EQ(config.vocab_size, 100);
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_EQ(config.num_key_value_heads, 2);
  EXPECT_EQ(config.rope_theta, 20000.0);
  EXPECT_EQ(config.rope_scaling.type, RopeType::linear);
  EXPECT_EQ(config.rope_scaling.factor, 4.0);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(read_hf_dtype(folder_), "bfloat16");
}

TEST_F(HfConfig, Transformers5Form) {
  json object = plain();
  object.erase("rope_theta");
  object.erase("torch_dtype");
  object["dtype"] = "float16";
  object["head_dim"] = 16;
  object["rope_parameters"] = {{"rope_type", "llama3"},   {"rope_theta", 5e5},
                               {"factor", 8.0},           {"low_freq_factor", 1.0},
                               {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 64}};
  const LlamaConfig config = read(object);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.rope_theta, 5e5);
  EXPECT_EQ(config.rope_scaling.type, RopeType::llama3);
  EXPECT_EQ(config.rope_scaling.original_max_position_embeddings, 64);
  EXPECT_EQ(read_hf_dtype(folder_), "float16");
}

TEST_F(HfConfig, AbsentKeysTakeTransformersDefaults) {
  json object = plain();
  for (const char* key : {"num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings", "torch_dtype",
                          "max_position_embeddings"}) {
    object.erase(key);
  }
  const LlamaConfig config = read(object);
  EXPECT_EQ(config.num_key_value_heads, 4);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_EQ(config.max_position_embeddings, 2048);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_EQ(config.bos_token_id, 1);
  EXPECT_EQ(config.eos_token_id, std::vector<int64_t>{2});
  EXPECT_EQ(read_hf_dtype(folder_), "");
}

TEST_F(HfConfig, SpecialTokens) {
  json object = plain();
  object["bos_token_id"] = nullptr;
  object["eos_token_id"] = {7, 9};
  const LlamaConfig config = read(object);
  EXPECT_EQ(config.bos_token_id, std::nullopt);
  EXPECT_EQ(config.eos_token_id, (std::vector<int64_t>{7, 9}));
}

TEST_F(HfConfig, YarnKeys) {
  const LlamaConfig config = read_with("rope_parameters", {{"rope_type", "yarn"},
                                                           {"rope_theta", 3e4},
                                                           {"factor", 2.0},
                                                           {"beta_fast", 20},
                                                           {"attention_factor", 1.25},
                                                           {"truncate", false}});
  EXPECT_EQ(config.rope_theta, 3e4);
  EXPECT_EQ(config.rope_scaling.original_max_position_embeddings, 128);
  EXPECT_EQ(config.rope_scaling.beta_fast, 20.0);
  EXPECT_EQ(config.rope_scaling.beta_slow, 1.0);
  EXPECT_EQ(config.rope_scaling.attention_factor, 1.25);
  EXPECT_FALSE(config.rope_scaling.truncate);
  // A null factor is the ratio of the lengths.
  EXPECT_EQ(
      read_with("rope_scaling", {{"rope_type", "yarn"}, {"factor", nullptr}, {"original_max_position_embeddings", 32}})
          .rope_scaling.factor,
      4.0);
}

TEST_F(HfConfig, RefusesByNameWhatItDoesNotKnow) {
  const std::string file = (folder_ / "config.json").string();
  EXPECT_ERROR(read_with("model_type", "mistral"), file + ": model_type: must be llama, got mistral");
  EXPECT_ERROR(read_with("hidden_act", "gelu"), file + ": hidden_act: gelu");
  EXPECT_ERROR(read_with("attention_bias", true), ": attention_bias: true is not supported");
  EXPECT_ERROR(read_with("mlp_bias", true), ": mlp_bias: true");
  EXPECT_ERROR(read_with("quantization_config", {{"bits", 4}}), ": quantization_config: ");
  EXPECT_ERROR(read_with("sliding_window", 4096), ": sliding_window: ");
  EXPECT_ERROR(read_with("partial_rotary_factor", 0.5), ": partial_rotary_factor: ");
  EXPECT_ERROR(read_with("layer_types", {"full_attention", "sliding_attention"}), ": layer_types: ");
  EXPECT_ERROR(read_with("rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}),
               ": rope_scaling: type: dynamic is not supported");
  EXPECT_ERROR(read_with("rope_parameters", {{"rope_type", "longrope"}}),
               ": rope_parameters: rope_type: longrope is not supported");
  EXPECT_ERROR(read_with("rope_scaling", {{"full_attention", {{"rope_type", "default"}}}}), "differs between layers");
}

TEST_F(HfConfig, BadValuesNameFileAndKey) {
  EXPECT_ERROR(read_with("hidden_size", "wide"), ": hidden_size: must be an integer, got \"wide\"");
  EXPECT_ERROR(read_with("vocab_size", nullptr), ": vocab_size: is missing");
  EXPECT_ERROR(read_with("num_key_value_heads", 3), ": num_key_value_heads: must divide");
  EXPECT_ERROR(read_with("head_dim", 7), ": head_dim: RoPE needs an even head_dim");
  EXPECT_ERROR(read_with("rope_scaling", {{"type", "linear"}}), ": rope_scaling: factor: is missing");
  write("config.json", "{\"model_type\": ");
  EXPECT_ERROR(read_hf_config(folder_), "config.json: is not a JSON object");
  std::filesystem::remove(folder_ / "config.json");
  EXPECT_ERROR(read_hf_config(folder_), "config.json");
  EXPECT_ERROR(read_hf_config(folder_ / "nowhere"), "no such folder");
}

TEST_F(HfConfig, WhatIsWrittenReadsBack) {
  LlamaConfig config = read(plain());
  std::vector<RopeScaling> scalings(4);
  scalings[1] = {.type = RopeType::linear, .factor = 2.0};
  scalings[2] = {.type = RopeType::yarn,
                 .factor = 4.0,
                 .original_max_position_embeddings = 99,
                 .beta_fast = 30,
                 .attention_factor = 1.5,
                 .mscale = 0.5,
                 .mscale_all_dim = 0.25,
                 .truncate = false};
  scalings[3] = {.type = RopeType::llama3,
                 .factor = 4.0,
                 .original_max_position_embeddings = 99,
                 .low_freq_factor = 2.0,
                 .high_freq_factor = 5.0};
  config.eos_token_id = {4, 5};
  config.bos_token_id = std::nullopt;
  for (const RopeScaling& scaling : scalings) {
    config.rope_scaling = scaling;
    EXPECT_EQ(read(hf_config_json(config, "float32", json())), config) << static_cast<int>(scaling.type);
  }
}

TEST_F(HfConfig, NtkIsWrittenAsItsTheta) {
  LlamaConfig config = read(plain());
  config.rope_scaling = {.type = RopeType::ntk, .factor = 4.0};
  const LlamaConfig written = read(hf_config_json(config, "float32", json()));
  EXPECT_EQ(written.rope_scaling.type, RopeType::none);
  EXPECT_NEAR(written.rope_theta, 20000.0 * std::pow(4.0, 8.0 / 6.0), 1e-6);
}

TEST_F(HfConfig, AttentionIsRecordedAndReadBackAsDefaults) {
  AttentionConfig attention;
  attention.kind = AttentionKind::dga;
  attention.focal_ratio = 0.25;
  attention.group_size = 7;
  attention.group_bias = GroupBias::entropy;
  attention.layers = {{"0-1", AttentionKind::full}};
  const json object = hf_config_json(read(plain()), "float32", attention_json(attention));
  EXPECT_EQ(object["dga_attention"]["kind"], "dga");
  EXPECT_FALSE(object["dga_attention"].contains("backend"));
  write("config.json", object.dump());
  const std::optional<std::string> recorded = read_recorded_attention(folder_);
  ASSERT_TRUE(recorded.has_value());

  struct OnlyAttention {
    AttentionConfig attention;
    void fields(config::Fields& f) { f.section("attention", attention, "attention"); }
  };
  config::Document document("", {"attention=" + *recorded, "attention.group_size=9"});
  OnlyAttention file;
  document.read_into(file);
  EXPECT_EQ(file.attention.kind, AttentionKind::dga);
  EXPECT_EQ(file.attention.focal_ratio, 0.25);
  EXPECT_EQ(file.attention.group_size, 9);
  EXPECT_EQ(file.attention.group_bias, GroupBias::entropy);
  ASSERT_EQ(file.attention.layers.size(), 1U);
  EXPECT_EQ(file.attention.layers[0].layers, "0-1");

  read(plain());
  EXPECT_EQ(read_recorded_attention(folder_), std::nullopt);
}

TEST_F(HfConfig, Tokenizer) {
  EXPECT_EQ(find_tokenizer(folder_), "");
  write("tokenizer.json", "{}");
  EXPECT_ERROR(find_tokenizer(folder_), "use token bins");
  write("tokenizer.model", "x");
  EXPECT_EQ(find_tokenizer(folder_), folder_ / "tokenizer.model");
}

}  // namespace
}  // namespace dga

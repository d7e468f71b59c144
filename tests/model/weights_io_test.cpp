#include "model/weights_io.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "reference_llama.h"
#include "tensor/tensor_file.h"
#include "test_folder.h"

namespace dga {
namespace {

class WeightsIo : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    model_ = std::make_unique<Llama>(small_config(), AttentionConfig{}, 5, at::kFloat, at::kCPU);
    for (const NamedParameter& parameter : model_->parameters()) stored_[parameter.name] = parameter.value.detach();
  }
  void store(const std::string& name = "model.safetensors") const { write_tensors(folder_ / name, stored_); }
  Llama load(at::ScalarType dtype = at::kFloat, bool tied = false) const {
    LlamaConfig config = small_config();
    config.tie_word_embeddings = tied;
    return Llama::load(folder_, config, {}, 0, dtype, at::kCPU);
  }
  static void expect_equal(const Llama& actual, const NamedTensors& expected) {
    for (const NamedParameter& parameter : actual.parameters()) {
      EXPECT_TRUE(parameter.value.equal(expected.at(parameter.name))) << parameter.name;
    }
  }

  std::unique_ptr<Llama> model_;
  NamedTensors stored_;
};

TEST_F(WeightsIo, EveryTypeLoadsIntoEveryType) {
  for (const at::ScalarType in : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const at::ScalarType out : {at::kFloat, at::kBFloat16}) {
      NamedTensors rounded, expected;
      for (const auto& [name, tensor] : stored_) {
        rounded[name] = tensor.to(in);
        expected[name] = rounded[name].to(out);
      }
      write_tensors(folder_ / "model.safetensors", rounded);
      const Llama loaded = load(out);
      EXPECT_EQ(loaded.dtype(), out);
      expect_equal(loaded, expected);
      EXPECT_TRUE(loaded.parameters()[3].value.requires_grad());
    }
  }
}

TEST_F(WeightsIo, InverseFrequenciesAreIgnored) {
  stored_["model.layers.0.self_attn.rotary_emb.inv_freq"] = at::rand({5});
  store();
  expect_equal(load(), stored_);
}

TEST_F(WeightsIo, MissingUnexpectedAndWronglyShapedAreNamed) {
  NamedTensors whole = stored_;
  stored_.erase("model.layers.1.mlp.up_proj.weight");
  store();
  EXPECT_ERROR(load(), ": missing model.layers.1.mlp.up_proj.weight");
  stored_ = whole;
  stored_["model.layers.2.mlp.up_proj.weight"] = at::zeros({2, 2});
  stored_["model.layers.0.self_attn.q_proj.bias"] = at::zeros({2});
  store();
  EXPECT_ERROR(load(), ": unexpected model.layers.0.self_attn.q_proj.bias, model.layers.2.mlp.up_proj.weight");
  stored_ = whole;
  stored_["model.norm.weight"] = at::zeros({25});
  store();
  EXPECT_ERROR(load(), "model.norm.weight: shape is [25], but config.json gives [24]");
  stored_["model.norm.weight"] = at::zeros({24}, at::kInt);
  store();
  EXPECT_ERROR(load(), "model.norm.weight: type I32 is not supported");
}

TEST_F(WeightsIo, NoWeightsAtAll) {
  EXPECT_ERROR(load(), "has neither model.safetensors nor model.safetensors.index.json");
  write("pytorch_model.bin", "x");
  EXPECT_ERROR(load(), "other weight formats are not supported");
}

TEST_F(WeightsIo, TiedWithAndWithoutOutputWeight) {
  stored_["lm_head.weight"] = stored_["model.embed_tokens.weight"];
  store();
  expect_equal(load(at::kFloat, /*tied=*/true), stored_);
  stored_.erase("lm_head.weight");
  store();
  expect_equal(load(at::kFloat, /*tied=*/true), stored_);
  EXPECT_ERROR(load(), ": missing lm_head.weight");
  stored_["lm_head.weight"] = stored_["model.embed_tokens.weight"] + 1;
  store();
  EXPECT_ERROR(load(at::kFloat, /*tied=*/true), "lm_head.weight differs from model.embed_tokens.weight");
}

TEST_F(WeightsIo, Shards) {
  NamedTensors first, second;
  nlohmann::json index = {{"weight_map", nlohmann::json::object()}};
  for (const auto& [name, tensor] : stored_) {
    const bool in_first = name < "model.layers.1";
    (in_first ? first : second)[name] = tensor;
    index["weight_map"][name] = in_first ? "a.safetensors" : "b.safetensors";
  }
  write_tensors(folder_ / "a.safetensors", first);
  write_tensors(folder_ / "b.safetensors", second);
  write("model.safetensors.index.json", index.dump());
  expect_equal(load(), stored_);

  second.erase("model.norm.weight");
  write_tensors(folder_ / "b.safetensors", second);
  EXPECT_ERROR(load(), "b.safetensors: lacks model.norm.weight");
  std::filesystem::remove(folder_ / "b.safetensors");
  EXPECT_ERROR(load(), "b.safetensors");
  write("model.safetensors.index.json", R"({"weight_map": {"x": "../b.safetensors"}})");
  EXPECT_ERROR(load(), "weight_map: x: must be the name of a file in the folder");
  write("model.safetensors.index.json", "{}");
  EXPECT_ERROR(load(), "weight_map: must be an object");
}

TEST_F(WeightsIo, ATruncatedFileIsNamed) {
  store();
  std::filesystem::resize_file(folder_ / "model.safetensors", 5000);
  EXPECT_ERROR(load(), "model.safetensors: ");
}

}  // namespace
}  // namespace dga

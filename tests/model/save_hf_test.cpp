#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "model/hf_config.h"
#include "model/weights_io.h"
#include "reference_llama.h"
#include "support/tensor_compare.h"
#include "test_folder.h"
#include "util/file.h"

namespace dga {
namespace {

class SaveHf : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    target_ = folder_ / "out";
    description_.config = small_config();
    model_ = std::make_unique<Llama>(small_config(), AttentionConfig{}, 5, at::kFloat, at::kCPU);
  }
  Llama reload() const { return Llama::load(target_, read_hf_config(target_), {}, 0, at::kFloat, at::kCPU); }
  static void expect_same(const Llama& a, const Llama& b) {
    const std::vector<NamedParameter> x = a.parameters(), y = b.parameters();
    ASSERT_EQ(x.size(), y.size());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_TRUE(x[i].value.equal(y[i].value)) << x[i].name;
  }

  std::filesystem::path target_;
  HfExport description_;
  std::unique_ptr<Llama> model_;
};

TEST_F(SaveHf, OneFile) {
  save_hf(target_, model_->parameters(), description_);
  EXPECT_EQ(read_hf_config(target_), small_config());
  EXPECT_EQ(read_hf_dtype(target_), "float32");
  EXPECT_FALSE(std::filesystem::exists(target_ / "model.safetensors.index.json"));
  expect_same(reload(), *model_);
  // Nothing is left beside it.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), std::filesystem::directory_iterator()), 1);
}

TEST_F(SaveHf, ShardsHoldTheLimitAndReadBack) {
  description_.max_shard_bytes = 8000;
  save_hf(target_, model_->parameters(), description_);
  EXPECT_FALSE(std::filesystem::exists(target_ / "model.safetensors"));
  const nlohmann::json index = read_json_object(target_ / "model.safetensors.index.json");
  EXPECT_EQ(index["metadata"]["total_size"], 4 * small_config().parameter_count());
  EXPECT_EQ(index["weight_map"].size(), model_->parameters().size());
  int64_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(target_)) {
    if (entry.path().extension() != ".safetensors") continue;
    ++files;
    EXPECT_LT(entry.file_size(), 8000U + 2000U) << entry.path();
  }
  EXPECT_GT(files, 2);
  EXPECT_TRUE(std::filesystem::exists(target_ / str("model-00001-of-0000", files, ".safetensors")));
  expect_same(reload(), *model_);
}

TEST_F(SaveHf, SeveralProcessesWriteOneFolder) {
  const std::vector<NamedParameter> parameters = model_->parameters();
  for (const auto& [limit, count] : {std::pair<int64_t, int64_t>{1 << 30, 2}, {1 << 30, 4}, {8000, 3}}) {
    description_.max_shard_bytes = limit;
    std::filesystem::remove_all(target_);
    std::filesystem::create_directory(target_);
    size_t written = 0;
    for (int64_t index = count - 1; index >= 0; --index) {
      // Of what others write the sizes are needed alone.
      const std::set<std::string> own = parameters_written(parameters, description_, {index, count});
      std::vector<NamedParameter> known = parameters;
      for (NamedParameter& parameter : known) {
        if (!own.contains(parameter.name)) parameter.value = at::zeros_like(parameter.value);
      }
      EXPECT_FALSE(own.empty()) << index << " of " << count;
      written += own.size();
      write_hf_files(target_, known, description_, {index, count});
    }
    EXPECT_EQ(written, parameters.size());
    expect_same(reload(), *model_);
    const auto names = read_json_object(target_ / "model.safetensors.index.json").at("weight_map");
    EXPECT_EQ(names.size(), parameters.size());
  }
}

TEST_F(SaveHf, BfloatWeights) {
  description_.dtype = at::kBFloat16;
  save_hf(target_, model_->parameters(), description_);
  EXPECT_EQ(read_hf_dtype(target_), "bfloat16");
  const at::Tensor expected = model_->output_weight().to(at::kBFloat16).to(at::kFloat);
  EXPECT_TRUE(reload().output_weight().equal(expected));
}

TEST_F(SaveHf, NtkScalingSurvivesAsTheta) {
  LlamaConfig config = small_config();
  config.rope_scaling = {.type = RopeType::ntk, .factor = 4.0};
  description_.config = config;
  const Llama scaled(config, {}, 5, at::kFloat, at::kCPU);
  save_hf(target_, scaled.parameters(), description_);
  const at::Tensor tokens = random_tokens(1, 20, 37);
  const SequenceLayout layout = SequenceLayout::whole_rows(1, 20);
  EXPECT_TRUE(testing::compare(reload().forward(tokens, layout), scaled.forward(tokens, layout), 1e-5));
  EXPECT_FALSE(testing::compare(model_->forward(tokens, layout), scaled.forward(tokens, layout), 1e-2));
}

TEST_F(SaveHf, AnExistingModelIsNotOverwritten) {
  std::filesystem::create_directories(target_);
  save_hf(target_, model_->parameters(), description_);  // empty: fine
  EXPECT_ERROR(save_hf(target_, model_->parameters(), description_), "exists and is not empty");
}

TEST_F(SaveHf, AFailureLeavesNothing) {
  std::filesystem::create_directory(folder_ / "source");
  std::ofstream(folder_ / "source/tokenizer.model") << "no sentencepiece model";
  description_.tokenizer_source = folder_ / "source";
  EXPECT_ERROR(save_hf(target_, model_->parameters(), description_), "not a readable sentencepiece model");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), std::filesystem::directory_iterator()), 1);
}

TEST_F(SaveHf, TokenizerFilesAreCopied) {
  std::filesystem::create_directory(folder_ / "source");
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    std::ofstream(folder_ / "source" / name) << "{\"from\": \"" << name << "\"}";
  }
  description_.tokenizer_source = folder_ / "source";
  save_hf(target_, model_->parameters(), description_);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    EXPECT_EQ(read_file(target_ / name), read_file(folder_ / "source" / name));
  }
}

}  // namespace
}  // namespace dga

#include "eval/run_model.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "model/weights_io.h"
#include "support/tensor_compare.h"
#include "util/error.h"

namespace dga {
namespace {

namespace fs = std::filesystem;
using testing::compare;

class RunModel : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::temp_directory_path() / str("dga run model.", getpid(), ".", info->name());
    fs::create_directories(folder_);
    config_.vocab_size = 17;
    config_.hidden_size = 16;
    config_.intermediate_size = 20;
    config_.num_hidden_layers = 2;
    config_.num_attention_heads = 2;
    config_.num_key_value_heads = 1;
    config_.head_dim = 8;
    config_.rope_theta = 5000;
    attention_.kind = AttentionKind::dga;
    attention_.selection = Selection::causal;
    attention_.block_size = 4;
    model_ = std::make_unique<Llama>(config_, attention_, 3, at::kFloat, at::kCPU);
    save_hf(folder_ / "model", model_->parameters(),
            {.config = config_, .attention = attention_, .tokenizer_source = {}});
  }
  void TearDown() override { fs::remove_all(folder_); }

  LoadedRun load(std::vector<std::string> assignments = {}, const fs::path& config_file = {}) {
    std::vector<std::string> all = model_folder_assignments(folder_ / "model");
    all.emplace_back("run.device=cpu");
    all.insert(all.end(), assignments.begin(), assignments.end());
    return load_run(config_file, all);
  }

  at::Tensor hidden(const Llama& model) {
    const at::NoGradGuard no_grad;
    return model.forward(at::arange(17).unsqueeze(0), SequenceLayout::whole_rows(1, 17));
  }

  fs::path folder_;
  LlamaConfig config_;
  AttentionConfig attention_;
  std::unique_ptr<Llama> model_;
};

TEST_F(RunModel, IsTheFoldersModelWithItsRecordedAttention) {
  const LoadedRun run = load();
  EXPECT_EQ(run.config.attention.kind, AttentionKind::dga);
  EXPECT_EQ(run.config.attention.selection, Selection::causal);
  EXPECT_EQ(run.config.attention.block_size, 4);
  EXPECT_TRUE(compare(hidden(load_run_model(run)), hidden(*model_), 0));
}

TEST_F(RunModel, SettingsGoAboveTheRecordedOnes) {
  const LoadedRun run = load({"attention.kind=full", "model.rope_theta=777"});
  EXPECT_EQ(run.config.attention.kind, AttentionKind::full);
  EXPECT_EQ(run.model.rope_theta, 777);
  EXPECT_FALSE(compare(hidden(load_run_model(run)), hidden(*model_), 1e-3));
}

/// A training config's own shape and RoPE must not leak into the model that is evaluated.
TEST_F(RunModel, ShapeOfTheConfigGivesWayToTheFolder) {
  const fs::path file = folder_ / "run.yaml";
  std::ofstream(file) << "model: {vocab_size: 5, hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1, "
                         "num_attention_heads: 1, head_dim: 8, rope_theta: 123, tie_word_embeddings: true, "
                         "rope_scaling: {type: yarn, factor: 4, beta_fast: 16, truncate: false}}\n"
                         "attention: {kind: dga, selection: none}\n";
  const LoadedRun run = load({}, file);
  EXPECT_EQ(run.model, config_);
  EXPECT_EQ(run.config.attention.selection, Selection::none);  // the config's attention does count
}

TEST_F(RunModel, MissingFoldersAreNamed) {
  try {
    model_folder_assignments(folder_ / "nowhere");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::input);
    EXPECT_NE(std::string(error.what()).find("nowhere"), std::string::npos);
  }
}

TEST_F(RunModel, TokenizerIsAbsentWhereThereIsNone) { EXPECT_EQ(load_run_tokenizer(load().config), nullptr); }

}  // namespace
}  // namespace dga

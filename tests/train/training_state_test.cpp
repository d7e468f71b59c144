#include "train/training_state.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/temp_folder.h"
#include "train/trainable.h"
#include "util/error.h"

namespace dga {
namespace {

TrainingState example() {
  TrainingState state;
  state.step = 12;
  state.tokens = 4096;
  state.optimizer_updates = 11;
  state.metrics_bytes = 777;
  state.seed = 5;
  state.outliers = {{1.5, 0.1, 3.0000000000000004}, 1};
  state.loader = {{"sources", {{{"file", 3}, {"document", 9}}}}};
  state.config_hash = "abc";
  state.config = {{"train.steps", "20"}};
  return state;
}

TEST(TrainingState, SurvivesTheFile) {
  const testing::TempFolder folder;
  folder.write("state.json", to_json(example()).dump());
  EXPECT_EQ(to_json(read_training_state(folder.path())), to_json(example()));
  EXPECT_EQ(read_training_state(folder.path()).outliers.norms, example().outliers.norms);
}

TEST(TrainingState, EveryFieldIsNeeded) {
  const nlohmann::json whole = to_json(example());
  for (const auto& [key, value] : whole.items()) {
    const testing::TempFolder folder;
    nlohmann::json part = whole;
    part.erase(key);
    folder.write("state.json", part.dump());
    EXPECT_THROW(read_training_state(folder.path()), Error) << key;
  }
}

LlamaConfig tiny() {
  LlamaConfig config;
  config.vocab_size = 12;
  config.hidden_size = 8;
  config.intermediate_size = 8;
  config.num_hidden_layers = 1;
  config.num_attention_heads = 2;
  config.num_key_value_heads = 1;
  config.head_dim = 4;
  return config;
}

TEST(MakeCheckpoint, CopiedSnapshotIsOfTheMomentItWasTaken) {
  const testing::TempFolder root;
  const Llama model(tiny(), AttentionConfig(), 1, at::kFloat, at::kCPU);
  AdamW optimizer(OptimizerConfig(), 1, select_trainable(model.parameters(), {"*"}), GradientSum::as_weights);
  HfExport description;
  description.config = model.config();
  const CheckpointContent content = make_checkpoint(example(), model, description, optimizer, Snapshot::copied, {});
  const at::Tensor weight = model.parameters()[0].value, expected = weight.detach().clone();
  {
    const at::NoGradGuard no_grad;
    weight.fill_(7);  // training goes on before the writer comes to it
    optimizer.state().exp_avg.numbers.fill_(7);
    optimizer.state().exp_avg_sq.numbers.fill_(7);
  }
  const std::filesystem::path folder = write_checkpoint(root.path(), content, *make_single_communicator(), "t");
  restore_tensors(folder, read_training_state(folder), model, optimizer);
  EXPECT_TRUE(at::equal(weight, expected));
  for (const FlatSlot& slot : optimizer.layout().slots) {
    EXPECT_EQ(slot.view_in(optimizer.state().exp_avg.numbers).abs().max().item<float>(), 0.0F) << slot.name;
    EXPECT_EQ(slot.view_in(optimizer.state().exp_avg_sq.numbers).abs().max().item<float>(), 0.0F) << slot.name;
  }
  EXPECT_EQ(optimizer.updates(), 11);
}

}  // namespace
}  // namespace dga

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "apps/program.h"

namespace dga {
namespace {

class BenchTrainApp : public ProgramTest {
 protected:
  BenchTrainApp() {
    std::string tokens;
    for (int i = 0; i < 4000; ++i) tokens += {static_cast<char>(i * 7 % 90), '\0'};  // u16
    folder_.write("text.u16", tokens);
    folder_.write("run.yaml",
                  "run: {device: cpu}\n"
                  "model: {vocab_size: 96, hidden_size: 16, intermediate_size: 40, num_hidden_layers: 2,\n"
                  "        num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 256}\n"
                  "data: {context_length: 64, bos: false, eos: false,\n"
                  "       sources: [{name: s, format: u16, paths: text.u16, separator: 0}]}\n"
                  "train: {steps: 10, global_batch_size: 4, micro_batch_size: 2}\n"
                  "log: {level: warning}\n");
  }
};

TEST_F(BenchTrainApp, PrintsSpeedAndWritesJsonAndLeavesNoRun) {
  const Finished finished = run("bench train run.yaml --steps 3 --warmup 1 --profile --json out.json");
  ASSERT_EQ(finished.code, 0) << finished.err;
  for (const char* part : {"cpu, 8528 parameters, attention full, 4 x 64 tokens a step in micro-batches of 2",
                           "median of 3", "tokens/s", "forward", "backward", "optimizer", "peak memory"}) {
    EXPECT_NE(finished.out.find(part), std::string::npos) << part << "\n" << finished.out;
  }
  std::ifstream file(folder_.path() / "out.json");
  const nlohmann::json json = nlohmann::json::parse(file);
  EXPECT_EQ(json["steps"], 3);
  EXPECT_EQ(json["losses"].size(), 3U);
  EXPECT_GT(json["tokens_per_s"].get<double>(), 0);
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "runs"));
}

TEST_F(BenchTrainApp, RefusesWrongCounts) {
  EXPECT_EQ(run("bench train run.yaml --steps 0").code, 2);
  EXPECT_EQ(run("bench train missing.yaml").code, 3);
}

}  // namespace
}  // namespace dga

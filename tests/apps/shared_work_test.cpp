// What several processes share besides training: evaluations, scoring, sweeps, checkpoints at other numbers of ranks.
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "ranks_program.h"

namespace dga {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class SharedWork : public RanksProgram {
 protected:
  /// Waits for all ranks of a launch; they end with this code.
  void expect_end(int64_t count, int code = 0) {
    for (int64_t rank = 0; rank < count; ++rank) EXPECT_EQ(wait(rank), code) << "rank " << rank << ": " << text(rank);
  }
  void train(int64_t count, const Words& settings) {
    start(count, settings);
    expect_end(count);
  }
  std::string model() const { return (run_folder() / "checkpoints/step-8").string(); }

  /// Starts an evaluation whose result goes to `name`.
  void start_eval(int64_t count, const std::string& name) {
    const std::string source =
        "[{name: held, format: u16, separator: 0, paths: " + (folder_.path() / "tokens.u16").string() + "}]";
    start_program(count, {"eval", (folder_.path() / "run.yaml").string(), "--model", model(), "--output", name},
                  {"eval.sources=" + source, "eval.context_lengths=[16, 32, 61]", "eval.stride=2",
                   "eval.max_tokens=2000", "eval.batch_tokens=100", "eval.bos=false", "eval.eos=false"});
  }
  static json result(const std::string& name) {
    json found = json::parse(read_file(name));
    for (json& length : found.at("results")) length.erase("seconds");
    return found;
  }
  std::string file(const std::string& name) const { return (folder_.path() / name).string(); }

  std::vector<double> losses() const {
    std::vector<double> losses;
    std::ifstream in(run_folder() / "metrics.jsonl");
    for (std::string line; std::getline(in, line);) losses.push_back(json::parse(line).at("loss"));
    return losses;
  }
};

TEST_F(SharedWork, EvaluationsAreThoseOfOneProcess) {
  train(1, {});
  start_eval(1, file("one.json"));
  expect_end(1);
  for (const int64_t count : {2, 4}) {
    start_eval(count, file("all.json"));
    expect_end(count);
    EXPECT_EQ(result(file("all.json")), result(file("one.json"))) << count;
    EXPECT_NE(text(0).find("perplexity"), std::string::npos) << text(0);
    EXPECT_EQ(text(1), "");
  }
  EXPECT_FALSE(fs::exists(file("all.json.partial")));
}

TEST_F(SharedWork, AnEvaluationStoppedOnTwoGoesOnOnFour) {
  train(1, {});
  start_eval(1, file("one.json"));
  expect_end(1);
  start_eval(2, file("out/all.json"));
  const Timer timer;
  while (!fs::exists(file("out")) && timer.seconds() < 60) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  send(1, SIGTERM);
  expect_end(2, static_cast<int>(ExitCode::terminated));
  ASSERT_TRUE(fs::exists(file("out/all.json.partial"))) << text(0);
  EXPECT_FALSE(fs::exists(file("out/all.json")));
  start_eval(4, file("out/all.json"));
  expect_end(4);
  EXPECT_NE(text(0).find("going on from"), std::string::npos) << text(0);
  EXPECT_EQ(result(file("out/all.json")), result(file("one.json")));
}

TEST_F(SharedWork, ScoresAreThoseOfOneProcess) {
  train(1, {});
  for (const int64_t count : {1, 2, 4}) {
    start_program(count,
                  {"score", "--model", model(), "--input", file("tokens.u16"), "--context", "37", "--out",
                   file(str(count, ".f32"))},
                  {"eval.batch_tokens=500", "parallel.threads=1"});
    expect_end(count);
    EXPECT_EQ(fs::file_size(file(str(count, ".f32"))), 6000 * 4U);
    EXPECT_EQ(read_file(file(str(count, ".f32"))), read_file(file("1.f32"))) << count;
  }
}

TEST_F(SharedWork, ARunGoesOnAtAnyNumberOfRanks) {
  train(1, {"train.steps=9"});
  const std::vector<double> expected = losses();
  ASSERT_EQ(expected.size(), 9U);
  fs::remove_all(run_folder());
  train(2, {"train.steps=3", "parallel.shard=optimizer"});
  EXPECT_TRUE(fs::exists(run_folder() / "checkpoints/step-3/optimizer-00002-of-00002.safetensors"));
  train(4, {"train.steps=5", "parallel.shard=none"});
  train(1, {"train.steps=7"});
  EXPECT_TRUE(fs::exists(run_folder() / "checkpoints/step-7/optimizer.safetensors"));
  train(2, {"train.steps=9", "parallel.shard=optimizer_gradients"});
  const std::vector<double> found = losses();
  ASSERT_EQ(found.size(), 9U);
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-6 * std::abs(expected[i])) << i;
}

TEST_F(SharedWork, ACheckpointFolderIsExportedAsARunIs) {
  train(1, {});
  for (const std::string& source : {run_folder().string(), model()}) {
    start_program(1, {"export", source, "--output", file("hf")}, {});
    expect_end(1);
    EXPECT_TRUE(fs::exists(file("hf/model.safetensors"))) << text(0);
    fs::remove_all(file("hf"));
  }
}

TEST_F(SharedWork, ASweepIsSharedOut) {
  const fs::path out = folder_.path() / "sweep";
  folder_.write("sweep.yaml", "config: run.yaml\nfolder: " + out.string() +
                                  "\nset: {train.steps: 3, checkpoint.every_steps: 0}\n"
                                  "grid: {run.seed: [1, 2, 3, 4, 5]}\n");
  for (int call = 1; call <= 2; ++call) {
    start_program(2, {"sweep", file("sweep.yaml"), "--gpus", "none"});
    expect_end(2);
    for (int seed = 1; seed <= 5; ++seed) {
      const json state = json::parse(read_file(out / str("seed=", seed) / "point.json"));
      EXPECT_EQ(state.at("status"), "finished") << seed;
      EXPECT_EQ(state.at("starts"), 1) << seed;
      EXPECT_NE(read_file(out / "table.csv").find(str("seed=", seed, ",", seed, ",finished,3,")), std::string::npos);
    }
    EXPECT_NE(text(0).find("| seed=5 |"), std::string::npos) << text(0);
    EXPECT_EQ(text(1), "");
  }
}

}  // namespace
}  // namespace dga

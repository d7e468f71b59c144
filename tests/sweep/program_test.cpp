// `dga sweep` itself: four tiny runs, killed in the middle and continued.
#include <signal.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "support/program_path.h"
#include "sweep/point_state.h"
#include "sweep_folder.h"
#include "util/process.h"

namespace dga {
namespace {

namespace fs = std::filesystem;

class SweepProgramTest : public SweepTest {
 protected:
  SweepProgramTest() {
    std::string tokens;
    for (int i = 0; i < 6000; ++i) {
      tokens += static_cast<char>(i % 97 == 0 ? 0 : 1 + (i * i) % 63);
      tokens += '\0';
    }
    folder_.write("tokens.u16", tokens);
  }

  ChildProcess launch(std::vector<std::string> words) const {
    words.insert(words.begin(), testing::program_path(DGA_PROGRAM));
    return ChildProcess(words, {}, folder_.path() / "output.txt");
  }

  /// Starts `dga sweep` over four learning rates, `steps` steps each.
  ChildProcess start(int64_t steps) {
    folder_.write("sweep.yaml", str("config: base.yaml\nfolder: ", out().string(), "\nset: {train.steps: ", steps,
                                    "}\ngrid: {optimizer.learning_rate: [1.0e-4, 2.0e-4, 3.0e-4, 4.0e-4]}\n"));
    return launch({"sweep", (folder_.path() / "sweep.yaml").string()});
  }
  static int wait(ChildProcess& process) {
    for (int i = 0; i < 1200; ++i) {
      if (const auto code = process.exit_code()) return *code;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return -999;
  }
  void wait_for_line(const fs::path& file) const {
    for (int i = 0; i < 1200 && (!fs::exists(file) || fs::file_size(file) == 0); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    ASSERT_TRUE(fs::exists(file)) << read_file(folder_.path() / "output.txt");
  }
  fs::path out() const { return folder_.path() / "out"; }
  fs::path point(int number) const { return out() / str("learning_rate=", number, ".0e-4"); }
  std::string output() const { return read_file(folder_.path() / "output.txt"); }
  std::vector<double> losses(int number) const {
    std::vector<double> losses;
    std::ifstream in(point(number) / "metrics.jsonl");
    for (std::string line; std::getline(in, line);) {
      losses.push_back(nlohmann::json::parse(line).at("loss").get<double>());
    }
    return losses;
  }
};

TEST_F(SweepProgramTest, GoesOnAfterAStopWithTheSameNumbers) {
  constexpr size_t kSteps = 400;  // long enough that the signal finds the second point training on a busy machine
  ChildProcess whole = start(kSteps);
  ASSERT_EQ(wait(whole), 0) << output();
  const std::vector<double> expected = losses(2);
  ASSERT_EQ(expected.size(), kSteps);
  fs::remove_all(out());

  ChildProcess stopped = start(kSteps);
  wait_for_line(point(2) / "metrics.jsonl");  // the first point has ended, the second trains
  stopped.send(SIGINT);
  EXPECT_EQ(wait(stopped), 130) << output();
  EXPECT_EQ(read_point_state(point(1)).status, PointStatus::finished);
  EXPECT_EQ(read_point_state(point(2)).status, PointStatus::interrupted);
  EXPECT_EQ(read_point_state(point(3)).status, PointStatus::pending);

  ChildProcess again = start(kSteps);
  EXPECT_EQ(wait(again), 0) << output();
  EXPECT_EQ(read_point_state(point(1)).starts, 1);
  EXPECT_EQ(read_point_state(point(2)).starts, 2);
  EXPECT_EQ(losses(2), expected);
  for (int number = 1; number <= 4; ++number) EXPECT_EQ(losses(number).size(), kSteps) << number;
  EXPECT_NE(read_file(out() / "table.csv").find("learning_rate=4.0e-4,4.0e-4,finished,400,"), std::string::npos);
  EXPECT_NE(read_file(out() / "report.html").find("optimizer.learning_rate"), std::string::npos);
}

TEST_F(SweepProgramTest, EvaluatesAModelUnderSeveralSettings) {
  const std::string model = (folder_.path() / "model").string();
  ChildProcess training = launch({"train", (folder_.path() / "base.yaml").string(), "--set", "run.folder=" + model});
  ASSERT_EQ(wait(training), 0) << output();
  const std::string text = (folder_.path() / "tokens.u16").string();
  folder_.write("eval.yaml",
                "run: {device: cpu}\nparallel: {threads: 1}\nmodel: {path: " + model + "/checkpoints/step-6}\n" +
                    "eval: {context_lengths: [32, 256], stride: 16, max_tokens: 600, bos: false, eos: false,\n" +
                    "       sources: [{name: held, format: u16, separator: 0, paths: " + text + "}]}\n");
  folder_.write("sweep.yaml", "job: eval\nconfig: eval.yaml\nfolder: " + out().string() +
                                  "\nlist:\n  - {name: plain}\n  - {name: theta, model.rope_theta: 100}\n"
                                  "  - {name: window, attention.kind: streaming, attention.window: 2}\n");
  for (int call = 1; call <= 2; ++call) {
    ChildProcess sweep = launch({"sweep", (folder_.path() / "sweep.yaml").string()});
    ASSERT_EQ(wait(sweep), 0) << output();
  }
  std::vector<std::string> losses;
  for (const char* name : {"plain", "theta", "window"}) {
    EXPECT_EQ(read_point_state(out() / name).starts, 1) << name;
    losses.push_back(
        nlohmann::json::parse(read_file(out() / name / "eval/result.json")).at("results").at(1).at("nll").dump());
  }
  EXPECT_NE(losses[0], losses[1]);  // the theta reached the model
  EXPECT_NE(losses[0], losses[2]);
  const std::string table = read_file(out() / "table.csv");
  EXPECT_NE(table.find("status,NLL @32,"), std::string::npos) << table;
  EXPECT_NE(table.find("window,,streaming,2,finished,"), std::string::npos) << table;
}

TEST_F(SweepProgramTest, PointsOfAKilledSweepSaveAndEndAndAreResumed) {
  ChildProcess killed = start(100000);
  wait_for_line(point(1) / "metrics.jsonl");
  killed.send(SIGKILL);
  EXPECT_EQ(wait(killed), -SIGKILL);
  // The point is not told by the sweep any more; the system does.
  const fs::path console = point(1) / "console.log";
  for (int i = 0; i < 400 && read_file(console).find("stopped by SIGTERM") == std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_NE(read_file(console).find("stopped by SIGTERM"), std::string::npos);
  EXPECT_EQ(read_point_state(point(1)).status, PointStatus::running);
  const auto steps = static_cast<int64_t>(losses(1).size());
  ChildProcess again = start(steps + 5);
  EXPECT_EQ(wait(again), 0) << output();
  EXPECT_EQ(losses(1).size(), static_cast<size_t>(steps + 5));
  EXPECT_NE(read_file(console).find("going on from"), std::string::npos);
}

class SweepGpu : public SweepProgramTest {
 protected:
  void SetUp() override {
    ChildProcess info = launch({"info"});
    ASSERT_EQ(wait(info), 0);
    if (output().find("cuda:0") == std::string::npos) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(SweepGpu, SpreadsPointsOverTheGpusOfTheHost) {
  folder_.write("sweep.yaml", str("config: base.yaml\nfolder: ", out().string(),
                                  "\nset: {run.device: cuda}\ngrid: {run.seed: [1, 2, 3, 4]}\n"));
  ChildProcess sweep = launch({"sweep", (folder_.path() / "sweep.yaml").string()});
  ASSERT_EQ(wait(sweep), 0) << output();
  for (int seed = 1; seed <= 4; ++seed) {
    const fs::path folder = out() / str("seed=", seed);
    EXPECT_EQ(read_point_state(folder).status, PointStatus::finished);
    EXPECT_EQ(read_file(folder / "train.log").find("on cpu"), std::string::npos);
  }
  EXPECT_NE(output().find("starts on GPU "), std::string::npos) << output();
}

}  // namespace
}  // namespace dga

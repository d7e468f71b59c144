// The program itself: signals, kill -9, refusals and exit codes.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "tiny_run.h"
#include "util/file.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

constexpr const char* kEndless = "train.steps=1000000";

/// `dga train` on a TinyRun; what it prints goes to output.txt in the run's folder.
class Process {
 public:
  Process(const TinyRun& run, const std::vector<std::string>& settings, bool resume = false) {
    std::vector<std::string> words = {DGA_EXECUTABLE, "train", run.config_file().string()};
    if (resume) words.emplace_back("--resume");
    for (const std::string& setting : run.assignments(settings)) {
      words.emplace_back("--set");
      words.push_back(setting);
    }
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const std::string output = (run.path() / "output.txt").string();
    id_ = fork();
    if (id_ != 0) return;
    const int file = open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    dup2(file, STDERR_FILENO);
    dup2(file, STDOUT_FILENO);
    execv(arguments[0], arguments.data());
    _exit(127);
  }
  ~Process() {
    if (ended_) return;
    kill(id_, SIGKILL);
    wait();
  }

  void send(int signal) const { kill(id_, signal); }
  /// The exit code, or minus the signal that ended it.
  int wait() {
    int status = 0;
    waitpid(id_, &status, 0);
    ended_ = true;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  pid_t id_ = 0;
  bool ended_ = false;
};

std::string output(const TinyRun& run) { return read_file(run.path() / "output.txt"); }

/// Waits until metrics.jsonl has so many lines.
void wait_for_steps(const TinyRun& run, size_t steps) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (std::chrono::steady_clock::now() < limit) {
    std::ifstream in(run.run_folder() / "metrics.jsonl");
    size_t lines = 0;
    for (std::string line; std::getline(in, line);) ++lines;
    if (lines >= steps) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  FAIL() << "no " << steps << " steps within a minute: " << output(run);
}

void expect_steps_in_order(const TinyRun& run) {
  const auto lines = run.metrics();
  for (size_t i = 0; i < lines.size(); ++i) ASSERT_EQ(lines[i].at("step"), i + 1);
}

int64_t newest_step(const TinyRun& run) {
  const auto newest = newest_complete_checkpoint(run.run_folder() / "checkpoints");
  return newest ? newest->step : -1;
}

TEST(Process, SignalsFinishTheStepAndSave) {
  const TinyRun run;
  size_t steps = 0;
  for (const auto& [signal, code] : {std::pair(SIGINT, 130), std::pair(SIGTERM, 143)}) {
    Process process(run, {kEndless, "log.level=info"}, /*resume=*/steps > 0);
    wait_for_steps(run, steps + 3);
    process.send(signal);
    EXPECT_EQ(process.wait(), code) << output(run);
    steps = run.metrics().size();
    EXPECT_EQ(newest_step(run), static_cast<int64_t>(steps));
    expect_steps_in_order(run);
  }
  EXPECT_NE(read_file(run.run_folder() / "train.log").find("going on from"), std::string::npos);
}

/// Waits until the newest checkpoint is of that step.
void wait_for_checkpoint(const TinyRun& run, int64_t step) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (newest_step(run) != step) {
    ASSERT_LT(std::chrono::steady_clock::now(), limit) << "no checkpoint of step " << step << ": " << output(run);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

TEST(Process, ASignalWhileDataIsAwaitedSaves) {
  const TinyRun run;
  const std::string text = (run.path() / "text.jsonl").string();
  ASSERT_EQ(mkfifo(text.c_str(), 0600), 0);
  const std::vector<std::string> settings = {kEndless, "model.vocab_size=4096", "data.shuffle_tokens=0",
                                             "data.tokenizer=" DGA_SOURCE_DIR "/data/tokenizer.model",
                                             "data.sources=[{name: text, paths: [" + text + "]}]"};
  // What is read is tokenised once it is 128 KiB, so a field that is ignored fills it up.
  std::string lines;
  for (int i = 0; i < 100; ++i) lines += R"({"text": "words of document )" + std::to_string(i) + "\"}\n";
  lines += R"({"text": "the last", "filling": ")" + std::string(1 << 17, 'x') + "\"}\n";
  int64_t steps = 0;
  for (const std::string& bytes : {std::string(), lines}) {
    const int pipe = open(text.c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_GT(fcntl(pipe, F_SETPIPE_SZ, 1 << 20), 0);
    Process process(run, settings, /*resume=*/!bytes.empty());
    ASSERT_EQ(write(pipe, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    if (!bytes.empty()) wait_for_steps(run, 3);
    do {  // until it has started and waits
      steps = static_cast<int64_t>(run.metrics().size());
      std::this_thread::sleep_for(std::chrono::seconds(1));
    } while (static_cast<int64_t>(run.metrics().size()) > steps || !fs::exists(run.run_folder() / "train.log"));
    process.send(SIGTERM);
    wait_for_checkpoint(run, steps);
    close(pipe);  // whoever reads a file can end only when the system has answered
    EXPECT_EQ(process.wait(), 143) << output(run);
  }
  EXPECT_GE(steps, 3);
}

TEST(Process, SecondSignalEndsItAtOnce) {
  const TinyRun run;
  Process process(run, {kEndless});
  wait_for_steps(run, 2);
  process.send(SIGSTOP);  // so that both signals wait for it
  process.send(SIGINT);
  process.send(SIGTERM);
  process.send(SIGCONT);
  const int code = process.wait();
  EXPECT_TRUE(code == 143 || code == 130) << code;
  EXPECT_EQ(newest_step(run), -1);
}

TEST(Process, KillLosesNothingThatWasSaved) {
  const TinyRun run, whole;
  const std::vector<std::string> settings = {kEndless, "checkpoint.every_steps=2", "schedule.kind=constant"};
  size_t steps = 0;
  for (int round = 0; round < 4; ++round) {
    Process process(run, settings, /*resume=*/round > 0);
    wait_for_steps(run, steps + 3 + static_cast<size_t>(round));
    process.send(SIGKILL);
    EXPECT_EQ(process.wait(), -SIGKILL);
    const auto saved = static_cast<size_t>(std::max<int64_t>(newest_step(run), 0));  // none may be complete yet
    ASSERT_GE(saved, steps) << output(run);
    steps = saved;
  }
  const std::string last = "train.steps=" + std::to_string(steps + 3);
  Process end(run, {last, "schedule.kind=constant"}, /*resume=*/true);
  EXPECT_EQ(end.wait(), 0) << output(run);
  expect_steps_in_order(run);
  Process undisturbed(whole, {last, "schedule.kind=constant"});
  EXPECT_EQ(undisturbed.wait(), 0) << output(whole);
  const auto lines = run.metrics(), expected = whole.metrics();
  ASSERT_EQ(lines.size(), expected.size());
  for (size_t i = 0; i < lines.size(); ++i) EXPECT_EQ(lines[i].at("loss"), expected[i].at("loss")) << i;
}

TEST(Process, RefusesWhatWouldSpoilARun) {
  const TinyRun run;
  EXPECT_EQ(Process(run, {}, /*resume=*/true).wait(), 0) << output(run);  // nothing there yet: from the beginning
  EXPECT_EQ(run.metrics().size(), 8U);
  for (const char* file : {"config.yaml", "train.log", "provenance.json", "checkpoints/step-8/config.json"}) {
    EXPECT_TRUE(std::filesystem::exists(run.run_folder() / file)) << file;
  }

  EXPECT_EQ(Process(run, {}).wait(), 3);
  EXPECT_NE(output(run).find("--resume"), std::string::npos) << output(run);
  EXPECT_EQ(Process(run, {"optimizer.learning_rate=0.5"}, /*resume=*/true).wait(), 3);
  EXPECT_NE(output(run).find("optimizer.learning_rate"), std::string::npos) << output(run);
  EXPECT_EQ(run.metrics().size(), 8U);

  EXPECT_EQ(Process(run, {"train.steps=9", "log.level=info"}, /*resume=*/true).wait(), 0) << output(run);
  EXPECT_EQ(run.metrics().size(), 9U);
  EXPECT_NE(output(run).find("train.steps was 8, is now 9"), std::string::npos) << output(run);
}

TEST(Process, OneProcessAFolder) {
  const TinyRun run;
  Process first(run, {kEndless});
  wait_for_steps(run, 1);
  Process second(run, {kEndless}, /*resume=*/true);
  EXPECT_EQ(second.wait(), 3);
  EXPECT_NE(output(run).find("another process"), std::string::npos) << output(run);
}

TEST(Process, SameSeedAndThreadsGiveTheSameBits) {
  const TinyRun first, second;
  const std::vector<std::string> settings = {"parallel.threads=2", "train.deterministic=true",
                                             "data.context_length=64"};
  Process process(first, settings);
  EXPECT_EQ(Process(second, settings).wait(), 0) << output(second);
  EXPECT_EQ(process.wait(), 0) << output(first);
  const auto lines = first.metrics(), others = second.metrics();
  ASSERT_EQ(lines.size(), 8U);
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i].at("loss"), others.at(i).at("loss")) << i;
    EXPECT_EQ(lines[i].at("grad_norm"), others.at(i).at("grad_norm")) << i;
  }
  for (const char* name : {"model.safetensors", "optimizer.safetensors"}) {
    EXPECT_EQ(read_file(first.run_folder() / "checkpoints/step-8" / name),
              read_file(second.run_folder() / "checkpoints/step-8" / name));
  }
}

TEST(Process, NonFiniteLossHasItsExitCode) {
  const TinyRun run;
  EXPECT_EQ(Process(run, {"optimizer.learning_rate=1e30", "optimizer.clip_norm=0"}).wait(), 5) << output(run);
  EXPECT_NE(output(run).find("tiny: "), std::string::npos) << output(run);
}

}  // namespace
}  // namespace dga

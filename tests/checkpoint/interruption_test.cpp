// kill -9 at every stage of a write, and at moments that nobody chose.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <thread>

#include "checkpoint/reader.h"
#include "checkpoint/writer.h"
#include "checkpoint_folder.h"

namespace dga {
namespace {
namespace fs = std::filesystem;

/// Runs `work` in a process that is expected to be killed.
template <class Work>
pid_t in_child(Work work) {
  const pid_t child = fork();
  if (child == 0) {
    work();
    _exit(0);
  }
  return child;
}

int wait_for(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

/// Content of step 2 that dies when `stage` begins for the `occurrence`-th time.
CheckpointContent dying_at(const std::string& stage, int occurrence) {
  CheckpointContent content = example(2);
  content.on_stage = [stage, left = occurrence](std::string_view name) mutable {
    if (name == stage && left-- == 0) kill(getpid(), SIGKILL);
  };
  return content;
}

void expect_intact(const fs::path& root, int64_t step) {
  const auto newest = newest_complete_checkpoint(root);
  ASSERT_TRUE(newest.has_value());
  EXPECT_EQ(newest->step, step);
  EXPECT_EQ(contents(newest->path / "state.json"), "step " + std::to_string(step));
}

void expect_no_leftovers(const fs::path& root) {
  for (const fs::directory_entry& entry : fs::directory_iterator(root)) {
    EXPECT_TRUE(entry.path().filename().string().starts_with("step-")) << entry.path();
  }
}

TEST(Interruption, AtEveryStageThePreviousCheckpointStays) {
  for (const auto& [stage, occurrence, survivor] :
       std::vector<std::tuple<std::string, int, int64_t>>{{"part", 0, 1},
                                                          {"part", 1, 1},
                                                          {"sync", 0, 1},
                                                          {"manifest", 0, 1},
                                                          {"replace", 0, 2},
                                                          {"publish", 0, 2},
                                                          {"done", 0, 2}}) {
    const TempFolder root;
    write_alone(root.path(), example(1));
    const int status = wait_for(in_child([&] { write_alone(root.path(), dying_at(stage, occurrence)); }));
    ASSERT_TRUE(WIFSIGNALED(status)) << stage;
    expect_intact(root.path(), stage == "done" ? 2 : 1);
    clean_up_leftovers(root.path());  // publishes a write that was whole
    expect_intact(root.path(), survivor);
    expect_no_leftovers(root.path());
    write_alone(root.path(), example(2));
    expect_intact(root.path(), 2);
  }
}

TEST(Interruption, InTheMiddleOfAPartWrite) {
  const TempFolder root;
  write_alone(root.path(), example(1));
  CheckpointContent content = example(2);
  content.parts.emplace_back([](const fs::path& folder) {
    put(folder / "optimizer", std::string(1000, 'x'));
    kill(getpid(), SIGKILL);
  });
  wait_for(in_child([&] { write_alone(root.path(), content); }));
  clean_up_leftovers(root.path());
  expect_intact(root.path(), 1);
  expect_no_leftovers(root.path());
}

TEST(Interruption, ReplacingACheckpointNeverLosesIt) {
  for (const char* stage : {"sync", "manifest", "replace", "publish", "done"}) {
    const TempFolder root;
    write_alone(root.path(), example(2));
    wait_for(in_child([&] { write_alone(root.path(), dying_at(stage, 0)); }));
    clean_up_leftovers(root.path());
    expect_intact(root.path(), 2);
    expect_no_leftovers(root.path());
  }
}

TEST(Interruption, AtRandomMomentsOfALongRun) {
  const TempFolder root;
  write_alone(root.path(), example(0));
  int64_t done = 0;
  for (int round = 0; round < 12; ++round) {
    const pid_t child = in_child([&] {
      CheckpointConfig config;
      config.keep_last = 2;
      BackgroundWriter writer(root.path(), config, alone());
      for (int64_t step = done + 1;; ++step) writer.submit(example(step));
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(15 + 7 * round));
    kill(child, SIGKILL);
    wait_for(child);
    clean_up_leftovers(root.path());
    expect_no_leftovers(root.path());
    const auto found = list_checkpoints(root.path());
    ASSERT_FALSE(found.empty());
    for (const CheckpointFolder& checkpoint : found) EXPECT_NO_THROW(verify_checkpoint(checkpoint));
    EXPECT_GE(found.back().step, done);
    done = found.back().step;
  }
  EXPECT_GT(done, 0);
}

}  // namespace
}  // namespace dga

#include "checkpoint/writer.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <future>

#include "checkpoint/reader.h"
#include "checkpoint_folder.h"
#include "util/error.h"

namespace dga {
namespace {
namespace fs = std::filesystem;

std::vector<int64_t> steps(const fs::path& root) {
  std::vector<int64_t> found;
  for (const CheckpointFolder& checkpoint : list_checkpoints(root)) found.push_back(checkpoint.step);
  return found;
}

TEST(WriteCheckpoint, HoldsWhatThePartsWrote) {
  const TempFolder root;
  const fs::path folder = write_alone(root.path(), example(7));
  EXPECT_EQ(folder, root.path() / "step-7");
  EXPECT_EQ(contents(folder / "state.json"), "step 7");
  EXPECT_EQ(contents(folder / "weights"), std::string(100000, 'h'));
  EXPECT_NO_THROW(verify_checkpoint({7, folder}));
}

TEST(WriteCheckpoint, ReplacesAnExistingOne) {
  const TempFolder root;
  const fs::path folder = write_alone(root.path(), example(7));
  put(folder / "weights", "damaged");
  write_alone(root.path(), example(7));
  EXPECT_NO_THROW(verify_checkpoint({7, folder}));
  EXPECT_EQ(std::distance(fs::directory_iterator(root.path()), fs::directory_iterator()), 1);
}

TEST(WriteCheckpoint, FailingPartLeavesNothingBehind) {
  const TempFolder root;
  write_alone(root.path(), example(1));
  CheckpointContent content = example(2);
  content.parts.emplace_back([](const fs::path&) { fail(ExitCode::failure, "No space left on device"); });
  try {
    write_alone(root.path(), content);
    FAIL() << "the failure was swallowed";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("step-2"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("No space left"), std::string::npos) << error.what();
  }
  EXPECT_EQ(steps(root.path()), std::vector<int64_t>{1});
  EXPECT_EQ(std::distance(fs::directory_iterator(root.path()), fs::directory_iterator()), 1);
}

TEST(WriteCheckpoint, FileSizeLimitIsReportedAndThePreviousOneStays) {
  const TempFolder root;
  write_alone(root.path(), example(1));
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);  // the write then fails with EFBIG
    const rlimit limit{200, 200};
    setrlimit(RLIMIT_FSIZE, &limit);
    CheckpointContent content = example(2);
    content.parts = {[](const fs::path& folder) { put(folder / "state.json", "short"); }};  // the manifest is longer
    try {
      write_alone(root.path(), content);
      _exit(1);
    } catch (const Error& error) {
      _exit(std::string(error.what()).find("step-2") == std::string::npos ? 2 : 0);
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(newest_complete_checkpoint(root.path())->step, 1);
}

TEST(Retention, KeepsTheNewestAndEveryMultiple) {
  const TempFolder root;
  for (const int64_t step : {10, 20, 30, 40, 50, 60}) write_alone(root.path(), example(step));
  CheckpointConfig config;
  config.keep_last = 2;
  config.keep_every = 20;
  apply_retention(root.path(), config, 60);
  EXPECT_EQ(steps(root.path()), (std::vector<int64_t>{20, 40, 50, 60}));
  config.keep_every = 0;
  apply_retention(root.path(), config, 60);
  EXPECT_EQ(steps(root.path()), (std::vector<int64_t>{50, 60}));
  config.keep_last = 5;
  apply_retention(root.path(), config, 60);
  EXPECT_EQ(steps(root.path()), (std::vector<int64_t>{50, 60}));
}

TEST(Retention, ADamagedNewerCheckpointTakesNoPlace) {
  const TempFolder root;
  for (const int64_t step : {6, 8, 9}) write_alone(root.path(), example(step));
  put(root.path() / "step-9/weights", "damaged");
  CheckpointConfig config;
  config.keep_last = 1;
  apply_retention(root.path(), config, 8);
  EXPECT_EQ(steps(root.path()), (std::vector<int64_t>{8, 9}));
  EXPECT_EQ(newest_complete_checkpoint(root.path())->step, 8);
}

TEST(BackgroundWriter, ReturnsBeforeTheWriteEnds) {
  const TempFolder root;
  BackgroundWriter writer(root.path(), {}, alone());
  std::promise<void> released;
  CheckpointContent content = example(3);
  content.parts.emplace_back([wait = released.get_future().share()](const fs::path&) { wait.wait(); });
  writer.submit(content);
  EXPECT_EQ(steps(root.path()), std::vector<int64_t>{});  // the part still waits
  released.set_value();
  writer.wait();
  EXPECT_EQ(steps(root.path()), std::vector<int64_t>{3});
}

TEST(BackgroundWriter, WithoutBackgroundTheCheckpointIsThereAfterSubmit) {
  const TempFolder root;
  CheckpointConfig config;
  config.background = false;
  BackgroundWriter writer(root.path(), config, alone());
  writer.submit(example(4));
  EXPECT_EQ(steps(root.path()), std::vector<int64_t>{4});
}

TEST(BackgroundWriter, AppliesRetention) {
  const TempFolder root;
  {
    CheckpointConfig config;
    config.keep_last = 1;
    BackgroundWriter writer(root.path(), config, alone());
    for (const int64_t step : {1, 2, 3}) writer.submit(example(step));
  }
  EXPECT_EQ(steps(root.path()), std::vector<int64_t>{3});
}

TEST(BackgroundWriter, FailureReachesTheNextWaitOnly) {
  const TempFolder root;
  BackgroundWriter writer(root.path(), {}, alone());
  CheckpointContent broken = example(1);
  broken.parts.emplace_back([](const fs::path&) { throw std::runtime_error("No space left on device"); });
  writer.submit(broken);
  EXPECT_THROW(writer.wait(), Error);
  EXPECT_NO_THROW(writer.wait());
  writer.submit(broken);
  writer.submit(example(2));  // training went on and the disk had room again
  EXPECT_NO_THROW(writer.wait());
  EXPECT_EQ(steps(root.path()), std::vector<int64_t>{2});
}

}  // namespace
}  // namespace dga

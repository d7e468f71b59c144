// What `--gpus N` does with its processes, here shells.
#include "apps/local_launch.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <set>
#include <thread>

#include "support/temp_folder.h"
#include "util/file.h"
#include "util/process.h"
#include "util/timer.h"

namespace dga {
namespace {

/// The script as `count` processes of a launch, itself in a process of its own, whose signals and exit are its alone.
int launch(const std::string& script, int64_t count, int signal = 0, const std::filesystem::path& ready = {}) {
  const pid_t id = fork();
  if (id == 0) [&]() noexcept { _exit(static_cast<int>(launch_locally({"/bin/sh", "-c", script}, count))); }();
  while (signal != 0 && !std::filesystem::exists(ready)) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  if (signal != 0) kill(id, signal);
  int status = 0;
  waitpid(id, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/// Whether the process is there and no mere zombie, which somebody else has to wait for.
bool is_running(int id) {
  const std::filesystem::path file = str("/proc/", id, "/stat");
  if (!std::filesystem::exists(file)) return false;
  const std::string stat = read_file(file);
  return stat.find(") Z ") == std::string::npos;
}

TEST(LocalLaunch, ProcessesGetTheVariablesOfALaunch) {
  const testing::TempFolder folder;
  const std::string script = "echo $RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $MASTER_ADDR $MASTER_PORT > " +
                             folder.path().string() + "/$RANK";
  EXPECT_EQ(launch(script, 3), 0);
  std::set<std::string> ports;
  for (int rank = 0; rank < 3; ++rank) {
    const std::string line = read_file(folder.path() / std::to_string(rank));
    const std::string expected = str(rank, " 3 ", rank, " 3 127.0.0.1 ");
    EXPECT_EQ(line.substr(0, expected.size()), expected);
    ports.insert(line.substr(expected.size()));
  }
  EXPECT_EQ(ports.size(), 1U);
  EXPECT_GT(std::stoi(*ports.begin()), 1023);
}

// As a sweep's point that torchrun's process starts: its ranks meet by themselves, not in torchrun's store.
TEST(LocalLaunch, ALauncherAroundItKeepsItsStore) {
  setenv("TORCHELASTIC_USE_AGENT_STORE", "True", /*overwrite=*/1);
  EXPECT_EQ(launch("[ $TORCHELASTIC_USE_AGENT_STORE = False ]", 2), 0);
  unsetenv("TORCHELASTIC_USE_AGENT_STORE");
}

TEST(LocalLaunch, TheCodeIsThatOfTheRankThatFailedByItself) {
  EXPECT_EQ(launch("[ $RANK = 1 ] && exit 5; exit 0", 3), 5);
  // 6: ended because another has failed, perhaps before that one is gone.
  EXPECT_EQ(launch("[ $RANK = 1 ] && sleep 1 && exit 5; exit 6", 3), 5);
  EXPECT_EQ(launch("[ $RANK = 1 ] && kill -9 $$; exit 6", 3), 128 + SIGKILL);
}

TEST(LocalLaunch, ASignalIsPassedOnOnce) {
  const testing::TempFolder folder;
  const std::string file = (folder.path() / "$RANK").string();
  const std::string script = "trap 'echo got >> " + file + "; exit 130' INT; [ $RANK = 1 ] && touch " +
                             (folder.path() / "ready").string() + "; while true; do sleep 0.1; done";
  EXPECT_EQ(launch(script, 2, SIGINT, folder.path() / "ready"), 130);
  EXPECT_EQ(read_file(folder.path() / "1"), "got\n");
}

TEST(LocalLaunch, NoProcessOutlivesIt) {
  const testing::TempFolder folder;
  const std::filesystem::path ready = folder.path() / "ready";
  const std::string script = str("echo $$ > ", folder.path().string(), "/$RANK; [ $RANK = 1 ] && touch ",
                                 ready.string(), "; while true; do sleep 0.1; done");
  EXPECT_EQ(launch(script, 2, SIGKILL, ready), -SIGKILL);
  const Timer timer;
  for (const char* rank : {"0", "1"}) {
    const int id = std::stoi(read_file(folder.path() / rank));
    while (is_running(id) && timer.seconds() < 10) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_FALSE(is_running(id)) << "rank " << rank;
  }
}

}  // namespace
}  // namespace dga

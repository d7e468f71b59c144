// Real processes that write a checkpoint together, one of which is killed meanwhile.
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <thread>

#include "checkpoint/reader.h"
#include "checkpoint/writer.h"
#include "checkpoint_folder.h"
#include "dist/rank_group.h"
#include "dist/ranks.h"
#include "dist/together.h"

namespace dga {
namespace {
namespace fs = std::filesystem;

using testing::Ranks;
using testing::RankScenario;

constexpr const char* kRoot = "DGA_TEST_CHECKPOINTS";

WatchTimes quick_times() {
  WatchTimes times;
  times.beat = std::chrono::milliseconds(100);
  times.grace = std::chrono::milliseconds(3000);
  return times;
}

CheckpointContent of_rank(int64_t step, int64_t rank) {
  CheckpointContent content;
  content.step = step;
  content.parts.emplace_back(
      [step, rank](const fs::path& folder) { put(folder / str("piece-", rank), str("step ", step)); });
  return content;
}

/// Saves steps 1 and 2; rank 1 hangs in the second.
void hang_while_writing(const LaunchEnvironment& place) {
  RankGroup group(place, quick_times());
  const auto ranks = make_communicator(group);
  report_failures(*ranks, [&] {
    const fs::path root = std::getenv(kRoot);
    BackgroundWriter writer(root, {}, *ranks);
    writer.submit(of_rank(1, place.rank));
    CheckpointContent content = of_rank(2, place.rank);
    if (place.rank == 1) {
      content.parts.emplace_back([](const fs::path& folder) {
        put(folder / "half", "half");
        std::printf("writing\n");
        std::this_thread::sleep_for(std::chrono::hours(1));
      });
    }
    writer.submit(std::move(content));
    writer.wait();
  });
}
const RankScenario kHang("hang_while_writing", hang_while_writing);

/// Saves step 3 after what was left behind is gone, and finds the newest.
void go_on(const LaunchEnvironment& place) {
  RankGroup group(place, quick_times());
  const auto ranks = make_communicator(group);
  report_failures(*ranks, [&] {
    const fs::path root = std::getenv(kRoot);
    if (place.rank == 0) clean_up_leftovers(root);
    ranks->exchange("cleaned", "");
    const auto newest = newest_complete_checkpoint(root, *ranks, "find");
    std::printf("newest %lld\n", static_cast<long long>(newest ? newest->step : -1));
    write_checkpoint(root, of_rank(3, place.rank), *ranks, "write");
  });
}
const RankScenario kGoOn("go_on", go_on);

std::set<std::string> entries(const fs::path& folder) {
  std::set<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename());
  return names;
}

TEST(CheckpointProcesses, KillingARankThatWritesLeavesThePreviousOne) {
  const TempFolder root;
  setenv(kRoot, root.path().c_str(), 1);
  Ranks ranks("hang_while_writing", 3);
  ranks.wait_for(1, "writing");
  ranks.send(1, SIGKILL);
  for (const auto& [rank, result] : ranks.finish()) {
    if (rank == 1) continue;
    EXPECT_GT(result.code, 0) << rank;
    EXPECT_NE(result.text.find("rank 1"), std::string::npos) << result.text;
    EXPECT_LT(result.seconds, 60) << rank;
  }
  EXPECT_EQ(newest_complete_checkpoint(root.path())->step, 1);
  const auto results = Ranks("go_on", 2).finish();  // on another number of ranks
  for (const auto& [rank, result] : results) {
    EXPECT_EQ(result.code, 0) << result.text;
    EXPECT_NE(result.text.find("newest 1"), std::string::npos) << result.text;
  }
  EXPECT_EQ(entries(root.path()), (std::set<std::string>{"step-1", "step-3"}));
  EXPECT_EQ(newest_complete_checkpoint(root.path())->step, 3);
  EXPECT_EQ(entries(root.path() / "step-1"), (std::set<std::string>{"manifest.json", "piece-0", "piece-1", "piece-2"}));
}

}  // namespace
}  // namespace dga

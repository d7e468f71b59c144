#pragma once

#include <c10/core/Device.h>

#include <map>
#include <string>

#include "dist/launch_environment.h"
#include "support/temp_folder.h"
#include "util/process.h"
#include "util/timer.h"

namespace dga::testing {

/// What a process of a run does. An exception becomes its "error: ..." line and exit code, as in the program.
using RankBody = void (*)(const LaunchEnvironment& place);

/// A body under the name that start_ranks() takes; to be defined outside of functions.
struct RankScenario {
  RankScenario(const std::string& name, RankBody body);
};

/// How one process of a run ended.
struct RankResult {
  int code = -1;       // minus the signal that ended it; -1000 where it did not end within two minutes
  double seconds = 0;  // since the first of them started
  std::string text;    // what it printed
};

/// Processes of this test's own binary, one a rank, which run a scenario and meet at a free port of this host.
class Ranks {
 public:
  /// `absent` is a rank that is not started.
  Ranks(const std::string& scenario, int64_t world_size, int64_t absent = -1);
  ~Ranks();

  /// Waits until the rank has printed the text.
  void wait_for(int64_t rank, const std::string& text) const;
  void send(int64_t rank, int signal) const { processes_.at(rank).send(signal); }
  /// Waits for all but `except`, which is killed then. By rank.
  std::map<int64_t, RankResult> finish(int64_t except = -1);

 private:
  std::string text_of(int64_t rank) const;

  TempFolder folder_;
  std::map<int64_t, ChildProcess> processes_;  // by rank
  const Timer since_start_;
};

/// Runs a scenario to its end, all of its ranks with code 0.
void expect_success(const std::string& scenario, int64_t world_size);

/// A port of this host that nothing listens at.
int64_t free_port();

/// The GPU of a rank.
c10::Device gpu_of(const LaunchEnvironment& place);

/// Why a test that needs so many GPUs is skipped; empty where they are there.
std::string lack_of_gpus(int64_t needed);

/// For scenarios: throws where `condition` does not hold.
void require(bool condition, const std::string& what);

}  // namespace dga::testing

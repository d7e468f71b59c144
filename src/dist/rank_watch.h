#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "dist/failure_board.h"
#include "dist/launch_environment.h"
#include "dist/shared_store.h"

namespace dga {

struct WatchTimes {
  std::chrono::milliseconds meeting{300000};   // for all ranks to come
  std::chrono::milliseconds beat{1000};        // between two signs of life of a rank
  int64_t silent_beats = 20;                   // without a sign of life, after which a rank counts as gone
  int64_t doubted_beats = 6;                   // the same once a connection to some rank has broken
  std::chrono::milliseconds grace{10000};      // for the main thread to end by itself after another rank's failure
  std::chrono::milliseconds own_grace{30000};  // the same after its own
};

/// Work on a device that the watch must look after.
struct WatchHooks {
  /// At each beat: notes collectives that have ended; returns what is wrong with the connections, or nothing.
  std::function<std::string()> poll;
  /// Once, when the run has failed: ends collectives that hang. Runs beside the other threads.
  std::function<void()> abort;
};

struct WatchState;

/// Watches over a run of several ranks, with two threads in each. One speaks with the shared store: at each beat it
/// writes a sign of life (how far the rank is), reads whether a rank has reported a failure, and looks for ranks that
/// have fallen silent (rank 0 watches all, the others watch rank 0) and for collectives that take too long. The first
/// failure in the store becomes the text that every rank ends with. The other thread acts on it: it frees the main
/// thread from collectives, and ends the process where the main thread does not end by itself. It also notices a store
/// that does not answer, whose process stands still.
class RankWatch {
 public:
  RankWatch(std::unique_ptr<SharedStore> store, const LaunchEnvironment& place, const WatchTimes& times);
  /// Tells the others that this rank has ended well, unless the run has failed or an exception is on its way. Rank 0,
  /// which may hold the store, waits until the others have ended too or know of the failure.
  ~RankWatch();
  RankWatch(const RankWatch&) = delete;
  RankWatch& operator=(const RankWatch&) = delete;

  /// Waits for all ranks. Returns what each is called in messages: "rank 1 (host, process 17)". Throws an error that
  /// names the ranks that have not come within WatchTimes::meeting.
  std::vector<std::string> meet();

  FailureBoard& board();
  /// How long a collective may take before the run ends.
  void set_limit(std::chrono::seconds limit);
  std::chrono::seconds limit() const;
  void set_hooks(WatchHooks hooks);

  /// Ends the run with this text on all ranks. Returns once they can read it, or the store does not answer.
  void fail_run(const std::string& text);
  /// Ends the run because this rank fails with `message`; does nothing where it has failed already.
  void report_failure(const std::string& message);
  /// A connection to another rank has broken: throws the failure that explains it, or else one that says `what`.
  [[noreturn]] void throw_reason_of(const std::string& what);

 private:
  std::shared_ptr<WatchState> state_;
  std::thread beat_thread_;
  std::thread guard_thread_;
  const int exceptions_;  // on their way when this was made
};

}  // namespace dga

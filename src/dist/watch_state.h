#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "dist/rank_watch.h"

namespace dga {

enum class Mood { running, doubting, failed, done };

/// What a rank writes into the store at each beat.
struct RankSign {
  int64_t beat = 0;
  FailureBoard::Progress progress;
  Mood mood = Mood::running;

  std::string text() const;
  static RankSign parse(const std::string& text);
};

/// What the threads of a RankWatch share; it outlives the watch where one of them hangs in the store.
struct WatchState {
  std::unique_ptr<SharedStore> store;  // the beat thread's
  LaunchEnvironment place;
  WatchTimes times;
  FailureBoard board;
  std::atomic<int64_t> limit_seconds{600};
  std::atomic<int64_t> beats{0};
  std::atomic<bool> own_failure{false};
  std::atomic<int64_t> first_step{0};  // of rank 0, at its last sign of life

  std::mutex hooks_mutex;  // held while one of them runs
  WatchHooks hooks;

  // Under the board's lock.
  std::vector<std::string> names;  // by rank, once all have come
  std::string to_publish;          // a failure
  Mood mood = Mood::running;
  bool others_left = false;  // every other rank has ended or knows of the failure
  bool farewell = false;     // one more sign, then the beat thread ends
  bool beat_ended = false;
  bool closed = false;  // the main thread has let go of the watch

  /// That the process which holds the store is gone, as far as this rank can tell.
  std::string store_lost_text();
};

/// The thread that speaks with the store; ends after the farewell, or when the store is lost.
void run_beats(const std::shared_ptr<WatchState>& state);

/// The thread that acts on a failure.
void run_guard(const std::shared_ptr<WatchState>& state);

}  // namespace dga

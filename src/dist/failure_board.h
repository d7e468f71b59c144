#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>

namespace dga {

/// What the threads of one rank tell each other: how far it is, which collectives have begun, and whether the run has
/// failed. Whoever waits for another rank waits here, so that a failure wakes it.
class FailureBoard {
 public:
  using Clock = std::chrono::steady_clock;

  struct Progress {
    int64_t step = 0;
    int64_t begun = 0;  // collectives
    int64_t ended = 0;
  };
  struct Collective {
    int64_t number = 0;  // counted from 1, the same on all ranks
    std::string name;
    Clock::time_point since;  // when it became the oldest that has not ended
  };

  void set_step(int64_t step);
  Progress progress() const;

  /// Throws the failure, if there is one. Returns the collective's number.
  int64_t begin(const std::string& name);
  /// Collectives end in the order in which they begin.
  void end();
  /// The oldest collective that has begun and not ended.
  std::optional<Collective> oldest() const;

  /// Keeps the first failure and wakes all who wait.
  void set_failure(const std::string& text);
  std::optional<std::string> failure() const;
  /// Throws the failure, if there is one, as an Error with ExitCode::rank.
  void check() const;
  /// Returns when `done` holds; throws the failure if that comes first. `done` is called under the board's lock, after
  /// each wake().
  void wait(const std::function<bool()>& done) const;
  /// Waits until `done`, which is told whether there is a failure, or until `limit` has passed.
  void pause(std::chrono::milliseconds limit, const std::function<bool(bool failed)>& done) const;
  /// Runs `change` under the board's lock and wakes all who wait.
  void wake(const std::function<void()>& change);

 private:
  void check_locked() const;

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  Progress progress_;
  std::deque<Collective> pending_;
  std::optional<std::string> failure_;
};

}  // namespace dga

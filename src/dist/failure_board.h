#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace dga {

/// What the threads of one rank tell each other: how far it is, which collectives have begun, and whether the run has
/// failed. Whoever waits for another rank waits here, so that a failure wakes it.
class FailureBoard {
 public:
  struct Progress {
    int64_t step = 0;
    int64_t begun = 0;  // collectives
    int64_t ended = 0;
  };
  struct Collective {
    int64_t number = 0;  // counted from 1, the same on all ranks
    std::string name;
  };

  void set_step(int64_t step);
  Progress progress() const;

  /// Throws the failure, if there is one. Returns the collective's number.
  int64_t begin(const std::string& name);
  void end(int64_t number);
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
  std::map<int64_t, std::string> pending_;  // collectives, by number
  std::optional<std::string> failure_;
};

}  // namespace dga

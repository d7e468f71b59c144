#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "util/timer.h"

namespace dga {

/// What an evaluation has done so far, in a file beside its result, so that the same command goes on after a stop.
class EvalProgress {
 public:
  /// Keeps nothing.
  EvalProgress() = default;
  /// Takes over the file's state if it is of the evaluation that `key` names (settings, weights and text alike); writes
  /// it again at most every `interval_seconds`.
  EvalProgress(std::filesystem::path file, std::string key, double interval_seconds = 10);

  /// The state left by an earlier call, or null.
  const nlohmann::json& earlier() const { return earlier_; }
  /// Whether save() would write now: the interval has passed, or a stop signal has arrived.
  bool is_due() const;
  /// Writes the state. Throws with the signal's exit code, the state being safe, where a stop signal has arrived.
  void save(nlohmann::json state);
  /// Removes the file: the result is written.
  void finish() const;

 private:
  std::filesystem::path file_;  // empty: keeps nothing
  std::string key_;
  double interval_seconds_ = 0;
  Timer since_save_;
  nlohmann::json earlier_;
};

}  // namespace dga

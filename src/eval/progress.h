#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "dist/communicator.h"
#include "util/timer.h"

namespace dga {

/// What an evaluation has done so far, in a file beside its result, so that the same command goes on after a stop, on
/// any number of ranks. Rank 0 reads and writes the file.
class EvalProgress {
 public:
  /// Keeps nothing.
  EvalProgress() = default;
  /// Takes over the file's state if it is of the evaluation that `key` names (settings, weights and text alike); writes
  /// it again at most every `interval_seconds`. The ranks make theirs together and get the same state.
  EvalProgress(std::filesystem::path file, std::string key, Communicator& ranks, double interval_seconds = 10);

  /// The state left by an earlier call, or null.
  const nlohmann::json& earlier() const { return earlier_; }
  /// After each round of passes, with the stop signal that the ranks agree on (0: none): writes what `state` makes if
  /// the interval has passed or there is a signal; with one it throws with the signal's exit code, the state, where one
  /// is kept, being safe.
  void after_round(int signal, const std::function<nlohmann::json()>& state);
  /// Removes the file: the result is written.
  void finish() const;

 private:
  std::filesystem::path file_;  // empty: keeps nothing
  std::string key_;
  bool writes_ = false;
  double interval_seconds_ = 0;
  Timer since_save_;
  nlohmann::json earlier_;
};

}  // namespace dga

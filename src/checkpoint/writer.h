#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

#include "checkpoint/config.h"

namespace dga {

/// What one checkpoint consists of. A part writes its files into the folder it is given; it owns whatever it needs,
/// since it may run on another thread while training changes the weights.
struct CheckpointContent {
  int64_t step = 0;
  std::vector<std::function<void(const std::filesystem::path& folder)>> parts;
  /// Told each stage as it begins: "part" (once each), "sync", "manifest", "rename", "done".
  std::function<void(std::string_view stage)> on_stage;
};

/// Writes root/step-N so that it is there whole or not at all: parts into a temporary folder, every file synced,
/// manifest.json with the size and checksum of each file last, one rename. An existing step-N is replaced.
/// On failure the temporary folder is removed and the error names the checkpoint.
std::filesystem::path write_checkpoint(const std::filesystem::path& root, const CheckpointContent& content);

/// Removes all but the newest `keep_last` checkpoints and those at multiples of `keep_every` steps (0: none).
void apply_retention(const std::filesystem::path& root, const CheckpointConfig& config);

/// Removes what interrupted writes and removals left behind. Only for a folder that nobody else writes to.
void remove_leftovers(const std::filesystem::path& root);

/// Writes checkpoints one at a time on a thread of its own, applying retention after each.
class BackgroundWriter {
 public:
  BackgroundWriter(std::filesystem::path root, const CheckpointConfig& config);
  /// Waits for the write in progress; a failure that nobody asked for is logged.
  ~BackgroundWriter();
  BackgroundWriter(const BackgroundWriter&) = delete;
  BackgroundWriter& operator=(const BackgroundWriter&) = delete;

  /// Waits for the previous write (logging its failure), then starts this one; without `background` it returns when
  /// the checkpoint is on disk and throws on failure.
  void submit(CheckpointContent content);
  /// Waits until nothing is being written; throws the failure of the last write.
  void wait();
  /// Writes that failed so far and were logged.
  int64_t failures() const { return failures_; }

 private:
  void log_failure_of_previous();

  std::filesystem::path root_;
  CheckpointConfig config_;
  std::thread thread_;
  std::exception_ptr failure_;
  int64_t failures_ = 0;
};

}  // namespace dga

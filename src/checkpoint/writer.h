#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "checkpoint/config.h"
#include "dist/communicator.h"
#include "util/error.h"

namespace dga {

/// What a rank puts into one checkpoint; with that of the other ranks it is whole. A part writes its files into the
/// folder it is given; it owns whatever it needs, since it may run on another thread while training changes the
/// weights.
struct CheckpointContent {
  int64_t step = 0;
  std::vector<std::function<void(const std::filesystem::path& folder)>> parts;
  /// Told each stage as it begins: "part" (once each), "sync", "manifest", "replace",
  /// "publish", "done".
  std::function<void(std::string_view stage)> on_stage;
};

/// Writes root/step-N so that it is there whole or not at all: parts into a temporary folder, every file synced,
/// manifest.json with the size and checksum of each file last, one rename. An existing step-N is replaced. The ranks
/// call it together, each with files of its own names, in a folder that all of them see; `topic` begins those of their
/// exchanges. Where one fails, the temporary folder is removed and the error of all names the checkpoint and the
/// reason.
std::filesystem::path write_checkpoint(const std::filesystem::path& root, const CheckpointContent& content,
                                       Communicator& ranks, const std::string& topic);

/// Of the checkpoints up to step `written`, which is known to be good, removes all but the newest `keep_last` and those
/// at multiples of `keep_every` steps (0: none).
void apply_retention(const std::filesystem::path& root, const CheckpointConfig& config, int64_t written);

/// Removes what interrupted writes and removals left behind; a write that lacks nothing but its final name gets it.
/// Only for a folder that nobody else writes to.
void clean_up_leftovers(const std::filesystem::path& root);

/// Writes checkpoints one at a time on a thread of its own, applying retention after each. Every rank has one and
/// submits the same steps.
class BackgroundWriter {
 public:
  BackgroundWriter(std::filesystem::path root, const CheckpointConfig& config, Communicator& ranks);
  /// Waits for the write in progress.
  ~BackgroundWriter();
  BackgroundWriter(const BackgroundWriter&) = delete;
  BackgroundWriter& operator=(const BackgroundWriter&) = delete;

  /// Waits for the previous write, then starts this one; without `background` it returns when the write has ended. A
  /// failure (a full disk) is logged and does not stop training, since the next checkpoint may succeed.
  void submit(CheckpointContent content);
  /// Waits until nothing is being written; throws if the last write failed.
  void wait();
  /// The same, whatever became of it.
  void finish();
  /// Waits, and says whether the last write failed.
  bool has_failed();

 private:
  std::filesystem::path root_;
  CheckpointConfig config_;
  Communicator& ranks_;
  int64_t submitted_ = 0;
  std::thread thread_;
  std::optional<Error> failure_;  // of the last write; read after joining
};

}  // namespace dga

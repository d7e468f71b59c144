#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>

#include "train/event_file.h"

namespace dga {

/// The steps of a run as TensorBoard event files, one file a start.
class TensorboardLog {
 public:
  /// Goes on in `folder` after `last_step`: files of earlier starts lose what lies beyond it, so that every step is
  /// there once.
  TensorboardLog(const std::filesystem::path& folder, int64_t last_step);

  /// Writes the numbers of a line of metrics.jsonl as train/NAME, and its evaluation as eval/nll_LENGTH and
  /// eval/perplexity_LENGTH.
  void append(const nlohmann::json& line);

 private:
  EventFileWriter file_;
};

}  // namespace dga

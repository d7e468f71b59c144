#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "util/file.h"

namespace dga {

/// metrics.jsonl: one JSON object a line, appended as steps end.
class MetricsLog {
 public:
  /// Cuts the file back to `keep_bytes`, the position of the checkpoint that training goes on from, so that the steps
  /// after it appear once. A file that is shorter has lost lines: a warning says so.
  MetricsLog(const std::filesystem::path& path, int64_t keep_bytes);

  /// Where the disk is full, lines wait in memory until it is not; a warning says so once.
  void append(const nlohmann::json& line);
  /// Makes sure that everything so far is on the disk, as far as there is room; returns its size in bytes.
  int64_t sync();

 private:
  void write_waiting();

  std::filesystem::path path_;
  OutputFile file_;
  int64_t bytes_ = 0;  // of the file
  std::string waiting_;
  bool warned_ = false;
};

}  // namespace dga

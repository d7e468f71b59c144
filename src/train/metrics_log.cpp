#include "train/metrics_log.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "util/error.h"
#include "util/log.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

/// Cuts the file and returns its path, so that it can be opened afterwards.
const fs::path& cut_back(const fs::path& path, int64_t keep_bytes) {
  const int64_t present = fs::exists(path) ? static_cast<int64_t>(fs::file_size(path)) : 0;
  if (present < keep_bytes) {
    log::warning(path.string(), " has ", present, " bytes, the checkpoint was made at ", keep_bytes,
                 ": lines of earlier steps are lost");
  }
  if (present > keep_bytes) fs::resize_file(path, static_cast<uintmax_t>(keep_bytes));
  return path;
}

}  // namespace

MetricsLog::MetricsLog(const fs::path& path, int64_t keep_bytes)
    : path_(path), file_(cut_back(path, keep_bytes), /*append=*/true) {
  bytes_ = static_cast<int64_t>(fs::file_size(path));
}

void MetricsLog::append(const nlohmann::json& line) {
  waiting_ += line.dump() + "\n";
  write_waiting();
}

int64_t MetricsLog::sync() {
  write_waiting();
  sync_path(path_);
  return bytes_ + static_cast<int64_t>(waiting_.size());
}

void MetricsLog::write_waiting() {
  try {
    file_.write(waiting_);
  } catch (const Error& error) {
    std::error_code ignored;
    fs::resize_file(path_, static_cast<uintmax_t>(bytes_), ignored);  // no half of a line
    if (!std::exchange(warned_, true)) log::warning(error.what(), "; lines wait in memory until they can be written");
    return;
  }
  bytes_ += static_cast<int64_t>(waiting_.size());
  waiting_.clear();
  warned_ = false;
}

}  // namespace dga

#include "train/metrics_log.h"

#include <nlohmann/json.hpp>

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
  const std::string text = line.dump() + "\n";
  file_.write(text);
  bytes_ += static_cast<int64_t>(text.size());
}

int64_t MetricsLog::sync() {
  sync_path(path_);
  return bytes_;
}

}  // namespace dga

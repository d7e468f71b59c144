#include "checkpoint/reader.h"

#include <algorithm>
#include <charconv>

#include "checkpoint/manifest.h"
#include "util/error.h"
#include "util/log.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kPrefix = "step-";

std::optional<int64_t> step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  int64_t step = 0;
  const char* end = name.data() + name.size();
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const auto [last, failure] = std::from_chars(name.data() + kPrefix.size(), end, step);
  return failure == std::errc() && last == end && step >= 0 ? std::optional(step) : std::nullopt;
}

}  // namespace

std::vector<CheckpointFolder> list_checkpoints(const fs::path& root) {
  std::vector<CheckpointFolder> found;
  if (!fs::is_directory(root)) return found;
  for (const fs::directory_entry& entry : fs::directory_iterator(root)) {
    const std::optional<int64_t> step = step_of(entry.path());
    if (step && entry.is_directory()) found.push_back({*step, entry.path()});
  }
  std::ranges::sort(found, {}, &CheckpointFolder::step);
  return found;
}

void verify_checkpoint(const CheckpointFolder& checkpoint) {
  const Manifest manifest = read_manifest(checkpoint.path);
  DGA_CHECK_INPUT(manifest.step == checkpoint.step, checkpoint.path.string(), " holds step ", manifest.step);
  const std::map<std::string, FileRecord> present = record_files(checkpoint.path);
  for (const auto& [name, expected] : manifest.files) {
    const std::string path = (checkpoint.path / name).string();
    const auto found = present.find(name);
    DGA_CHECK_INPUT(found != present.end(), path, " is missing");
    DGA_CHECK_INPUT(found->second.size_bytes == expected.size_bytes, path, " has ", found->second.size_bytes,
                    " bytes, was written with ", expected.size_bytes);
    DGA_CHECK_INPUT(found->second.checksum == expected.checksum, path, " is damaged: its checksum does not match");
  }
  for (const auto& [name, record] : present) {
    DGA_CHECK_INPUT(manifest.files.contains(name), (checkpoint.path / name).string(),
                    " does not belong to the checkpoint; remove it");
  }
}

std::optional<CheckpointFolder> newest_complete_checkpoint(const fs::path& root) {
  std::vector<CheckpointFolder> found = list_checkpoints(root);
  for (; !found.empty(); found.pop_back()) {
    try {
      verify_checkpoint(found.back());
      return found.back();
    } catch (const Error& error) {
      log::warning("checkpoint of step ", found.back().step, " is not used: ", error.what());
    }
  }
  return std::nullopt;
}

}  // namespace dga

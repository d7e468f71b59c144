#include "checkpoint/reader.h"

#include <algorithm>
#include <charconv>
#include <set>

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

/// What is wrong with the checkpoint as far as the share's files tell; empty where nothing is.
std::string problem_of(const CheckpointFolder& checkpoint, const Share& share) {
  try {
    verify_checkpoint(checkpoint, share);
    return "";
  } catch (const std::exception& error) {
    return error.what();
  }
}

std::string steps_text(const std::vector<CheckpointFolder>& checkpoints) {
  std::string text;
  for (const CheckpointFolder& checkpoint : checkpoints) text += str(text.empty() ? "" : ", ", checkpoint.step);
  return text.empty() ? "none" : text;
}

void require_same_view(const fs::path& root, const std::vector<CheckpointFolder>& found, Communicator& ranks,
                       const std::string& topic) {
  const std::vector<std::string> views = ranks.exchange(topic, steps_text(found));
  for (size_t rank = 1; rank < views.size(); ++rank) {
    DGA_CHECK_INPUT(views[rank] == views[0], "the checkpoints in ", root.string(), " are for rank 0 those of step ",
                    views[0], ", for rank ", rank, " of ", views[rank], "; all ranks need one shared run.folder");
  }
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

void verify_checkpoint(const CheckpointFolder& checkpoint, const Share& share) {
  const Manifest manifest = read_manifest(checkpoint.path);
  DGA_CHECK_INPUT(manifest.step == checkpoint.step, checkpoint.path.string(), " holds step ", manifest.step);
  const std::vector<std::string> present = list_files(checkpoint.path);
  int64_t number = 0;
  for (const auto& [name, expected] : manifest.files) {
    const std::string path = (checkpoint.path / name).string();
    DGA_CHECK_INPUT(std::ranges::binary_search(present, name), path, " is missing");
    if (!share.has(number++)) continue;
    const FileRecord found = record_file(path);
    DGA_CHECK_INPUT(found.size_bytes == expected.size_bytes, path, " has ", found.size_bytes,
                    " bytes, was written with ", expected.size_bytes);
    DGA_CHECK_INPUT(found.checksum == expected.checksum, path, " is damaged: its checksum does not match");
  }
}

void refuse_foreign_files(const CheckpointFolder& checkpoint) {
  static const std::set<std::string> kLoaded = {".safetensors", ".json", ".model"};
  const Manifest manifest = read_manifest(checkpoint.path);
  for (const std::string& name : list_files(checkpoint.path)) {
    DGA_CHECK_INPUT(manifest.files.contains(name) || !kLoaded.contains(fs::path(name).extension().string()),
                    (checkpoint.path / name).string(), " does not belong to the checkpoint; remove it");
  }
}

std::optional<CheckpointFolder> newest_complete_checkpoint(const fs::path& root, Communicator& ranks,
                                                           const std::string& topic) {
  std::vector<CheckpointFolder> found = list_checkpoints(root);
  require_same_view(root, found, ranks, topic + "/list");
  const Share share{ranks.rank(), ranks.world_size()};
  for (; !found.empty(); found.pop_back()) {
    const std::vector<std::string> problems =
        ranks.exchange(str(topic, "/step-", found.back().step), problem_of(found.back(), share));
    const auto problem = std::ranges::find_if(problems, [](const std::string& text) { return !text.empty(); });
    if (problem == problems.end()) {
      refuse_foreign_files(found.back());
      return found.back();
    }
    if (ranks.is_first()) log::warning("checkpoint of step ", found.back().step, " is not used: ", *problem);
  }
  return std::nullopt;
}

std::optional<CheckpointFolder> newest_complete_checkpoint(const fs::path& root) {
  return newest_complete_checkpoint(root, *make_single_communicator(), "");
}

}  // namespace dga

#include "checkpoint/writer.h"

#include <algorithm>
#include <utility>

#include "checkpoint/manifest.h"
#include "checkpoint/reader.h"
#include "util/error.h"
#include "util/file.h"
#include "util/log.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

// Both begin with a dot, so no reader takes such a folder for a checkpoint.
constexpr std::string_view kWritingPrefix = ".writing-";
constexpr std::string_view kRemovingPrefix = ".removing-";

std::string name_of_step(int64_t step) { return str("step-", step); }

/// Renames before removing: a removal that is cut short leaves no folder that looks like a damaged checkpoint.
void remove_checkpoint(const fs::path& root, const fs::path& folder) {
  const fs::path removing = root / str(kRemovingPrefix, folder.filename().string());
  fs::remove_all(removing);
  rename_synced(folder, removing);
  fs::remove_all(removing);
}

/// A write that was cut short after its manifest is as good as one that was renamed.
bool publish_if_complete(const fs::path& root, const fs::path& leftover) {
  try {
    const CheckpointFolder checkpoint{read_manifest(leftover).step, leftover};
    const fs::path final_path = root / name_of_step(checkpoint.step);
    const bool was_written = leftover.filename() == str(kWritingPrefix, final_path.filename().string());
    if (!was_written || fs::exists(final_path)) return false;
    verify_checkpoint(checkpoint);
    rename_synced(leftover, final_path);
    return true;
  } catch (const Error&) {
    return false;
  }
}

void sync_tree(const fs::path& folder) {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) sync_path(entry.path());
  sync_path(folder);
}

void fill_and_publish(const fs::path& root, const fs::path& writing, const CheckpointContent& content) {
  const auto stage = [&](std::string_view name) {
    if (content.on_stage) content.on_stage(name);
  };
  for (const auto& write_part : content.parts) {
    stage("part");
    write_part(writing);
  }
  stage("sync");
  sync_tree(writing);
  stage("manifest");
  OutputFile manifest(writing / kManifestName);
  manifest.write(manifest_text({content.step, record_files(writing)}));
  manifest.close_synced();
  sync_path(writing);
  stage("replace");
  const fs::path final_path = root / name_of_step(content.step);
  if (fs::exists(final_path)) remove_checkpoint(root, final_path);
  stage("publish");
  rename_synced(writing, final_path);
  stage("done");
}

}  // namespace

fs::path write_checkpoint(const fs::path& root, const CheckpointContent& content) {
  const std::string name = name_of_step(content.step);
  const fs::path writing = root / str(kWritingPrefix, name);
  try {
    fs::remove_all(writing);
    fs::create_directories(writing);
    fill_and_publish(root, writing, content);
  } catch (const std::exception& failure) {
    std::error_code ignored;
    fs::remove_all(writing, ignored);
    fail(ExitCode::failure, "checkpoint ", (root / name).string(), " was not written: ", failure.what());
  }
  return root / name;
}

void apply_retention(const fs::path& root, const CheckpointConfig& config) {
  std::vector<CheckpointFolder> found = list_checkpoints(root);
  const auto newest = static_cast<size_t>(config.keep_last);
  found.resize(found.size() - std::min(found.size(), newest));
  for (const CheckpointFolder& checkpoint : found) {
    const bool kept_for_good = config.keep_every > 0 && checkpoint.step % config.keep_every == 0;
    if (!kept_for_good) remove_checkpoint(root, checkpoint.path);
  }
}

void clean_up_leftovers(const fs::path& root) {
  if (!fs::is_directory(root)) return;
  std::vector<fs::path> leftovers;
  for (const fs::directory_entry& entry : fs::directory_iterator(root)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(kWritingPrefix) || name.starts_with(kRemovingPrefix)) leftovers.push_back(entry.path());
  }
  for (const fs::path& path : leftovers) {
    if (publish_if_complete(root, path)) continue;
    log::info("removing ", path.string(), ", left behind by an interrupted run");
    fs::remove_all(path);
  }
}

BackgroundWriter::BackgroundWriter(fs::path root, const CheckpointConfig& config)
    : root_(std::move(root)), config_(config) {}

BackgroundWriter::~BackgroundWriter() {
  if (thread_.joinable()) thread_.join();
}

void BackgroundWriter::submit(CheckpointContent content) {
  if (thread_.joinable()) thread_.join();
  failure_.clear();
  thread_ = std::thread([this, content = std::move(content)] {
    try {
      write_checkpoint(root_, content);
      apply_retention(root_, config_);
    } catch (const std::exception& failure) {
      log::error(failure.what());
      failure_ = failure.what();
    }
  });
  if (!config_.background) thread_.join();
}

void BackgroundWriter::wait() {
  if (thread_.joinable()) thread_.join();
  if (!failure_.empty()) fail(ExitCode::failure, std::exchange(failure_, ""));
}

}  // namespace dga

#include "checkpoint/writer.h"

#include <algorithm>
#include <utility>

#include "checkpoint/manifest.h"
#include "checkpoint/reader.h"
#include "dist/together.h"
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

/// Gives the files that this rank wrote their places among those of the others.
void move_up(const fs::path& own, const fs::path& writing) {
  std::vector<fs::path> entries;
  for (const fs::directory_entry& entry : fs::directory_iterator(own)) entries.push_back(entry.path());
  for (const fs::path& entry : entries) {
    const fs::path target = writing / entry.filename();
    DGA_CHECK(!fs::exists(target), "two ranks wrote ", target.filename().string());
    fs::rename(entry, target);
  }
  fs::remove(own);
  sync_path(writing);
}

using Stage = std::function<void(std::string_view name)>;

/// Writes this rank's files, in a folder of its own so that they can be told from those of the others.
std::map<std::string, FileRecord> write_parts(const fs::path& writing, const CheckpointContent& content, int64_t rank,
                                              const Stage& stage) {
  const fs::path own = writing / str("rank-", rank);
  fs::create_directory(own);
  for (const auto& write_part : content.parts) {
    stage("part");
    write_part(own);
  }
  stage("sync");
  sync_tree(own);
  std::map<std::string, FileRecord> files = record_files(own);
  move_up(own, writing);
  return files;
}

void publish(const fs::path& root, const fs::path& writing, const Manifest& manifest, const Stage& stage) {
  for (const auto& [name, record] : manifest.files) {
    std::error_code missing;
    const uintmax_t size = fs::file_size(writing / name, missing);
    DGA_CHECK(!missing && static_cast<int64_t>(size) == record.size_bytes, "rank 0 does not see ", name, " in ",
              writing.string(), "; all ranks need one shared run.folder");
  }
  stage("manifest");
  OutputFile file(writing / kManifestName);
  file.write(manifest_text(manifest));
  file.close_synced();
  sync_path(writing);
  stage("replace");
  const fs::path final_path = root / name_of_step(manifest.step);
  if (fs::exists(final_path)) remove_checkpoint(root, final_path);
  stage("publish");
  rename_synced(writing, final_path);
}

void write_together(const fs::path& root, const fs::path& writing, const CheckpointContent& content,
                    Communicator& ranks, const std::string& topic) {
  const Stage stage = [&](std::string_view name) {
    if (content.on_stage) content.on_stage(name);
  };
  run_on_first(ranks, topic + "/begin", [&] {
    fs::remove_all(writing);
    fs::create_directories(writing);
  });
  const std::vector<std::string> written = run_together(
      ranks, topic + "/written", [&] { return records_text(write_parts(writing, content, ranks.rank(), stage)); });
  run_on_first(ranks, topic + "/published", [&] {
    Manifest manifest{content.step, {}};
    for (const std::string& records : written) manifest.files.merge(records_of(records));
    publish(root, writing, manifest, stage);
  });
  stage("done");
}

}  // namespace

fs::path write_checkpoint(const fs::path& root, const CheckpointContent& content, Communicator& ranks,
                          const std::string& topic) {
  const std::string name = name_of_step(content.step);
  const fs::path writing = root / str(kWritingPrefix, name);
  try {
    write_together(root, writing, content, ranks, topic);
  } catch (const std::exception& failure) {
    std::error_code ignored;
    if (ranks.is_first()) fs::remove_all(writing, ignored);
    const auto* error = dynamic_cast<const Error*>(&failure);
    const bool of_other = error != nullptr && error->code() == ExitCode::rank;
    fail(of_other ? ExitCode::rank : ExitCode::failure, "checkpoint ", (root / name).string(),
         " was not written: ", failure.what());
  }
  return root / name;
}

void apply_retention(const fs::path& root, const CheckpointConfig& config, int64_t written) {
  std::vector<CheckpointFolder> found = list_checkpoints(root);
  // A newer one is damaged, or training would have gone on from it: it must not take the place of a good one.
  std::erase_if(found, [written](const CheckpointFolder& checkpoint) { return checkpoint.step > written; });
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

BackgroundWriter::BackgroundWriter(fs::path root, const CheckpointConfig& config, Communicator& ranks)
    : root_(std::move(root)), config_(config), ranks_(ranks) {}

BackgroundWriter::~BackgroundWriter() { finish(); }

void BackgroundWriter::submit(CheckpointContent content) {
  finish();
  failure_.reset();
  // The number, since a step may be saved again after its write has failed.
  const std::string topic = str("checkpoint/", ++submitted_, "/step-", content.step);
  thread_ = std::thread([this, topic, content = std::move(content)] {
    try {
      write_checkpoint(root_, content, ranks_, topic);
      run_on_first(ranks_, topic + "/retention", [&] { apply_retention(root_, config_, content.step); });
    } catch (const Error& failure) {
      log::error(failure.what());
      failure_ = failure;
    } catch (const std::exception& failure) {
      log::error(failure.what());
      failure_.emplace(failure.what(), ExitCode::failure);
    }
  });
  if (!config_.background) thread_.join();
}

void BackgroundWriter::wait() {
  if (!has_failed()) return;
  const Error failure = *std::exchange(failure_, std::nullopt);
  throw failure;
}

void BackgroundWriter::finish() {
  if (thread_.joinable()) thread_.join();
}

bool BackgroundWriter::has_failed() {
  finish();
  return failure_.has_value();
}

}  // namespace dga

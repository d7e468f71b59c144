#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "dist/communicator.h"
#include "util/share.h"

namespace dga {

struct CheckpointFolder {
  int64_t step = 0;
  std::filesystem::path path;
};

/// All folders root/step-N, oldest first, complete or not. Empty where root does not exist.
std::vector<CheckpointFolder> list_checkpoints(const std::filesystem::path& root);

/// Reads the share's files and compares them with the manifest. Throws an input error naming the first file that is
/// missing, of another size or damaged, the manifest included.
void verify_checkpoint(const CheckpointFolder& checkpoint, const Share& share = {});

/// Throws an input error naming a file that was not written with the checkpoint and that a reader of the folder might
/// load: weights, JSON, a tokenizer. Others (an editor's, a file system's) do no harm.
void refuse_foreign_files(const CheckpointFolder& checkpoint);

/// The newest checkpoint that passes verification; newer ones that do not are named in a warning. The ranks call it
/// together, share the reading out and get the same; `topic` begins those of their exchanges. Throws an input error
/// where they do not see the same checkpoints, and for foreign files: an older one is no way out of those.
std::optional<CheckpointFolder> newest_complete_checkpoint(const std::filesystem::path& root, Communicator& ranks,
                                                           const std::string& topic);

/// The same for one process.
std::optional<CheckpointFolder> newest_complete_checkpoint(const std::filesystem::path& root);

}  // namespace dga

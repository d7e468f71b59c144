#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace dga {

struct CheckpointFolder {
  int64_t step = 0;
  std::filesystem::path path;
};

/// All folders root/step-N, oldest first, complete or not. Empty where root does not exist.
std::vector<CheckpointFolder> list_checkpoints(const std::filesystem::path& root);

/// Reads every file and compares it with the manifest. Throws an input error naming the first file that is missing,
/// added, of another size or damaged, the manifest included.
void verify_checkpoint(const CheckpointFolder& checkpoint);

/// The newest checkpoint that passes verification; newer ones that do not are named in a warning.
std::optional<CheckpointFolder> newest_complete_checkpoint(const std::filesystem::path& root);

}  // namespace dga

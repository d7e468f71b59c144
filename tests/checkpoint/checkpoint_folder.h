#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "checkpoint/writer.h"

namespace dga {

/// A folder of its own for one test, removed afterwards.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "dga_checkpoint_XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline std::string contents(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline void put(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// Two files whose bytes depend on the step.
inline CheckpointContent example(int64_t step) {
  CheckpointContent content;
  content.step = step;
  content.parts = {
      [step](const std::filesystem::path& folder) {
        put(folder / "weights", std::string(100000, static_cast<char>('a' + step % 26)));
      },
      [step](const std::filesystem::path& folder) { put(folder / "state.json", "step " + std::to_string(step)); }};
  return content;
}

}  // namespace dga

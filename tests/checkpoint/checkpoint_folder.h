#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "checkpoint/writer.h"
#include "support/temp_folder.h"

namespace dga {

using testing::TempFolder;

inline std::string contents(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline void put(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline Communicator& alone() {
  static const std::unique_ptr<Communicator> ranks = make_single_communicator();
  return *ranks;
}

inline std::filesystem::path write_alone(const std::filesystem::path& root, const CheckpointContent& content) {
  return write_checkpoint(root, content, alone(), "checkpoint");
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

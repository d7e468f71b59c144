#pragma once

#include <filesystem>
#include <string>

namespace dga::testing {

/// The program of this build (`built`, as CMake names it), or beside this test where both were carried elsewhere.
inline std::string program_path(const std::string& built) {
  if (std::filesystem::exists(built)) return built;
  return (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "dga").string();
}

}  // namespace dga::testing

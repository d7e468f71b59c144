#pragma once

#include <map>
#include <string>

namespace dga {

/// What this binary was built from and with.
struct BuildInfo {
  std::string version;             // of the project
  std::string commit;              // git commit, "-dirty" appended where the tree had changes; or "unknown"
  std::string compiler;            // name and version
  std::string build_type;          // CMake's
  bool cuda = false;               // whether CUDA code was compiled in
  std::string cuda_architectures;  // empty without CUDA
  std::map<std::string, std::string> libraries;  // name to version
};

const BuildInfo& build_info();

}  // namespace dga

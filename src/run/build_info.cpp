#include "run/build_info.h"

#include "build_commit.h"  // generated at each build, see write_commit.cmake

namespace dga {
namespace {

#if defined(__clang__)
const std::string kCompiler = "clang " __clang_version__;
#else
const std::string kCompiler = "g++ " __VERSION__;
#endif

}  // namespace

const BuildInfo& build_info() {
  static const BuildInfo info = {
      .version = DGA_VERSION,
      .commit = DGA_COMMIT,
      .compiler = kCompiler,
      .build_type = DGA_BUILD_TYPE,
      .cuda = DGA_WITH_CUDA != 0,
      .cuda_architectures = DGA_ARCHITECTURES,
      .libraries = DGA_LIBRARY_VERSIONS,
  };
  return info;
}

}  // namespace dga

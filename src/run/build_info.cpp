#include "run/build_info.h"

#include <zlib.h>
#include <zstd.h>

#include <CLI/Version.hpp>
#include <nlohmann/json.hpp>

#include "build_commit.h"  // generated at each build, see write_commit.cmake
#include "util/error.h"

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
      .libraries = {{"LibTorch", DGA_TORCH_VERSION},
                    {"CUDA compiler", DGA_CUDA_VERSION},
                    {"yaml-cpp", DGA_YAML_CPP_VERSION},
                    {"nlohmann-json", str(NLOHMANN_JSON_VERSION_MAJOR, ".", NLOHMANN_JSON_VERSION_MINOR, ".",
                                          NLOHMANN_JSON_VERSION_PATCH)},
                    {"CLI11", CLI11_VERSION},
                    {"sentencepiece", DGA_SENTENCEPIECE_VERSION},
                    {"zstd", ZSTD_VERSION_STRING},
                    {"zlib", ZLIB_VERSION}},
  };
  return info;
}

}  // namespace dga

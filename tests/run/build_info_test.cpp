#include "run/build_info.h"

#include <gtest/gtest.h>

namespace dga {
namespace {

TEST(BuildInfoTest, NamesWhatItWasBuiltFrom) {
  const BuildInfo& build = build_info();
  EXPECT_EQ(build.version, "0.1.0");
  const std::string commit = build.commit.substr(0, build.commit.find('-'));
  EXPECT_TRUE(commit == "unknown" ||
              (commit.size() == 40 && commit.find_first_not_of("0123456789abcdef") == std::string::npos))
      << build.commit;
  EXPECT_NE(build.compiler.find(' '), std::string::npos) << build.compiler;
  EXPECT_FALSE(build.build_type.empty());
  EXPECT_EQ(build.cuda, !build.cuda_architectures.empty());
}

TEST(BuildInfoTest, EveryLibraryHasAVersion) {
  for (const char* name : {"LibTorch", "yaml-cpp", "nlohmann-json", "CLI11", "zstd", "zlib"}) {
    const auto found = build_info().libraries.find(name);
    ASSERT_NE(found, build_info().libraries.end()) << name;
    EXPECT_EQ(found->second.find_first_not_of("0123456789."), std::string::npos) << name << " " << found->second;
    EXPECT_NE(found->second.find('.'), std::string::npos) << name << " " << found->second;
  }
}

}  // namespace
}  // namespace dga

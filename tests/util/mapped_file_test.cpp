#include "util/mapped_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <utility>

#include "support/temp_folder.h"
#include "util/error.h"

namespace dga {
namespace {

std::string text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST(MappedFileTest, HoldsTheBytesAndMoves) {
  const testing::TempFolder folder;
  MappedFile first(folder.write("a", "some bytes"));
  EXPECT_EQ(text_of(first), "some bytes");
  MappedFile second = std::move(first);
  EXPECT_EQ(text_of(second), "some bytes");
  EXPECT_EQ(second.path().filename(), "a");
  MappedFile third(folder.write("b", "other"));
  third = std::move(second);
  EXPECT_EQ(text_of(third), "some bytes");
}

TEST(MappedFileTest, AnEmptyFileMapsToNothing) {
  const testing::TempFolder folder;
  EXPECT_TRUE(MappedFile(folder.write("a", "")).bytes().empty());
}

TEST(MappedFileTest, WhatIsNoFileIsAnInputError) {
  const testing::TempFolder folder;
  for (const std::filesystem::path& path : {folder.path() / "none", folder.path()}) {
    try {
      MappedFile file(path);
      FAIL() << path;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::input);
      EXPECT_NE(std::string(e.what()).find(path.string()), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace dga

#include "util/log.h"

#include <gtest/gtest.h>

#include "support/temp_folder.h"
#include "util/file.h"

namespace dga {
namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

TEST(LogTest, WritesToStderrAndTheRunsFileFromItsLevelOn) {
  const testing::TempFolder folder;
  const std::filesystem::path file = folder.write("train.log", "earlier\n");
  log::add_file(file);
  log::set_level(log::Level::info);
  ::testing::internal::CaptureStderr();
  log::debug("not shown");
  log::info("step ", 3, " {} %s");
  log::warning("careful");
  log::set_level(log::Level::error);
  log::warning("not shown either");
  log::error("bad");
  log::set_level(log::Level::info);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "I step 3 {} %s\nW careful\nE bad\n");

  const std::vector<std::string> lines = lines_of(read_file(file));
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0], "earlier");
  EXPECT_TRUE(lines[1].ends_with(" info step 3 {} %s")) << lines[1];
  EXPECT_TRUE(lines[2].ends_with(" warning careful")) << lines[2];
  EXPECT_TRUE(lines[3].ends_with(" error bad")) << lines[3];
  EXPECT_EQ(lines[1].substr(4, 1), "-");  // a date
}

TEST(LogTest, ProcessesButTheFirstShowWarningsAfterTheirNumber) {
  ::testing::internal::CaptureStderr();
  log::set_rank(2);
  log::set_level(log::Level::debug);
  log::info("of the first alone");
  log::warning("careful");
  EXPECT_EQ(log::line_prefix(), "rank 2: ");
  log::set_rank(0);
  log::info("shown");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "W rank 2: careful\nI shown\n");
  EXPECT_EQ(log::line_prefix(), "");
}

TEST(LogTest, NoStatusLineWhereStderrIsNoTerminal) {
  ::testing::internal::CaptureStderr();
  log::show_status("50 %");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST(LogTest, AFileThatCannotBeOpenedIsNamed) {
  try {
    log::add_file("/proc/none/train.log");
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("/proc/none/train.log"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace dga

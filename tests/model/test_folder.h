#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "util/error.h"

namespace dga {

/// A fresh folder for each test, removed at its end.
class FolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string test = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    folder_ = std::filesystem::temp_directory_path() / ("dga_model_" + test + "_" + std::to_string(::getpid()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write(const std::string& name, const std::string& text) const { std::ofstream(folder_ / name) << text; }

  std::filesystem::path folder_;
};

/// The message of the dga::Error that `action` throws; empty if it throws none.
inline std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace dga

/// Passes if `action` throws a dga::Error whose message contains `part`.
#define EXPECT_ERROR(action, part)                                                                           \
  do {                                                                                                       \
    const std::string message = ::dga::error_of([&] { action; });                                            \
    EXPECT_NE(message.find(part), std::string::npos) << "message: " << (message.empty() ? "none" : message); \
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;                                             \
  } while (false)

#include "util/signals.h"

#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>

namespace dga {
namespace {

void exit_with_noted_signal(int number) {
  install_stop_signals();
  const int before = stop_signal();
  raise(number);
  std::_Exit(before == 0 ? stop_signal() : 99);
}

void raise_twice(int first, int second) {
  install_stop_signals();
  raise(first);
  raise(second);
  std::_Exit(99);
}

TEST(SignalsDeathTest, TheFirstSignalIsNoted) {
  EXPECT_EXIT(exit_with_noted_signal(SIGINT), ::testing::ExitedWithCode(SIGINT), "");
  EXPECT_EXIT(exit_with_noted_signal(SIGTERM), ::testing::ExitedWithCode(SIGTERM), "");
}

TEST(SignalsDeathTest, TheSecondSignalEndsTheProcess) {
  EXPECT_EXIT(raise_twice(SIGINT, SIGINT), ::testing::ExitedWithCode(130), "");
  EXPECT_EXIT(raise_twice(SIGTERM, SIGTERM), ::testing::ExitedWithCode(143), "");
  EXPECT_EXIT(raise_twice(SIGTERM, SIGINT), ::testing::ExitedWithCode(130), "");
}

}  // namespace
}  // namespace dga

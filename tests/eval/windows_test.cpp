#include "eval/windows.h"

#include <gtest/gtest.h>

#include <string>

#include "util/error.h"

namespace dga {

void PrintTo(const Window& w, std::ostream* out) {
  *out << "{" << w.start << ", " << w.length << ", " << w.first_scored << "}";
}

namespace {

using Plan = std::vector<Window>;

TEST(SlidingWindows, ScoreOnlyNewTokens) {
  EXPECT_EQ(plan_windows(EvalProtocol::sliding, 10, 4, 2), (Plan{{0, 4, 1}, {2, 4, 4}, {4, 4, 6}, {6, 4, 8}}));
}

TEST(SlidingWindows, LastWindowIsShorterWhereTheTextEndsInIt) {
  EXPECT_EQ(plan_windows(EvalProtocol::sliding, 11, 4, 3), (Plan{{0, 4, 1}, {3, 4, 4}, {6, 4, 7}, {9, 2, 10}}));
}

TEST(SlidingWindows, TextShorterThanTheContextIsOneWindow) {
  EXPECT_EQ(plan_windows(EvalProtocol::sliding, 3, 8, 2), (Plan{{0, 3, 1}}));
}

TEST(SlidingWindows, ExactFitIsOneWindow) {
  EXPECT_EQ(plan_windows(EvalProtocol::sliding, 8, 8, 2), (Plan{{0, 8, 1}}));
}

TEST(SlidingWindows, DisjointWindowsLeaveTheirFirstTokensUnscored) {
  EXPECT_EQ(plan_windows(EvalProtocol::sliding, 9, 4, 4), (Plan{{0, 4, 1}, {4, 4, 5}}));
  EXPECT_EQ(plan_windows(EvalProtocol::sliding, 10, 4, 4), (Plan{{0, 4, 1}, {4, 4, 5}, {8, 2, 9}}));
}

TEST(SlidingWindows, TextsWithoutAPredictableTokenHaveNone) {
  EXPECT_EQ(plan_windows(EvalProtocol::sliding, 0, 4, 2), Plan{});
  EXPECT_EQ(plan_windows(EvalProtocol::sliding, 1, 4, 2), Plan{});
}

/// Whatever the lengths: every token but the unpredictable ones is scored once, with as much context as a window that
/// starts at a multiple of the stride can give.
TEST(SlidingWindows, ScoreEveryTokenOnce) {
  for (int64_t tokens = 0; tokens < 40; ++tokens) {
    for (int64_t length = 2; length < 12; ++length) {
      for (int64_t stride = 1; stride <= length; ++stride) {
        std::vector<int> times(tokens, 0);
        for (const Window& w : plan_windows(EvalProtocol::sliding, tokens, length, stride)) {
          EXPECT_EQ(w.start % stride, 0);
          EXPECT_LE(w.length, length);
          EXPECT_LE(w.start + w.length, tokens);
          EXPECT_GT(w.first_scored, w.start);
          for (int64_t t = w.first_scored; t < w.start + w.length; ++t) ++times[t];
        }
        for (int64_t t = 0; t < tokens; ++t) {
          const bool unpredictable = t == 0 || (stride == length && t % stride == 0);
          EXPECT_EQ(times[t], unpredictable ? 0 : 1) << t << " of " << tokens << ", L " << length << ", " << stride;
        }
      }
    }
  }
}

TEST(LongLoraWindows, AreFullAndScoreAllTheirTokens) {
  EXPECT_EQ(plan_windows(EvalProtocol::longlora, 10, 4, 3), (Plan{{0, 4, 1}, {3, 4, 4}, {6, 4, 7}}));
}

TEST(LongLoraWindows, DropALastShortWindow) {
  EXPECT_EQ(plan_windows(EvalProtocol::longlora, 9, 4, 3), (Plan{{0, 4, 1}, {3, 4, 4}}));
}

TEST(LongLoraWindows, ExactFitAndShortText) {
  EXPECT_EQ(plan_windows(EvalProtocol::longlora, 4, 4, 3), (Plan{{0, 4, 1}}));
  EXPECT_EQ(plan_windows(EvalProtocol::longlora, 3, 4, 3), Plan{});
}

TEST(Windows, RefuseStridesThatLeaveGaps) {
  for (const EvalProtocol protocol : {EvalProtocol::sliding, EvalProtocol::longlora}) {
    for (const int64_t stride : {0, 5, -1}) {
      try {
        plan_windows(protocol, 10, 4, stride);
        FAIL() << "stride " << stride << " was accepted";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::config);
        EXPECT_NE(std::string(error.what()).find("stride of " + std::to_string(stride)), std::string::npos);
      }
    }
    EXPECT_THROW(plan_windows(protocol, 10, 1, 1), Error);
  }
}

}  // namespace
}  // namespace dga

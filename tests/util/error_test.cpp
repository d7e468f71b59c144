#include "util/error.h"

#include <gtest/gtest.h>

namespace dga {
namespace {

TEST(ErrorTest, ChecksCarryValuesAndCodes) {
  const int rows = -1;
  try {
    DGA_CHECK(rows > 0, "rows must be positive, got ", rows);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "rows must be positive, got -1");
    EXPECT_EQ(e.code(), ExitCode::failure);
  }
  try {
    DGA_CHECK_INPUT(false, "file ", 'a', ": ", 0.5);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "file a: 0.5");
    EXPECT_EQ(e.code(), ExitCode::input);
  }
}

TEST(ErrorTest, AConditionThatHoldsEvaluatesNoMessage) {
  int evaluated = 0;
  DGA_CHECK(true, ++evaluated);
  DGA_CHECK_INPUT(true, ++evaluated);
  EXPECT_EQ(evaluated, 0);
}

}  // namespace
}  // namespace dga

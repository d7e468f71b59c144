#include "dist/agreement.h"

#include <gtest/gtest.h>

#include "support/temp_folder.h"
#include "support/thread_communicator.h"
#include "util/error.h"

namespace dga {
namespace {

/// What each of the ranks throws over its facts.
std::vector<std::string> messages(const std::vector<Facts>& facts) {
  std::vector<std::string> texts(facts.size());
  testing::run_ranks(static_cast<int64_t>(facts.size()), [&](Communicator& ranks) {
    try {
      require_agreement(ranks, facts[static_cast<size_t>(ranks.rank())]);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::config);
      texts[static_cast<size_t>(ranks.rank())] = e.what();
    }
  });
  for (const std::string& text : texts) EXPECT_EQ(text, texts[0]);
  return texts;
}

TEST(Agreement, TheSameFactsAreAccepted) {
  const Facts facts = {{"train.steps", "5"}, {"empty", ""}, {"lines", "a\nb"}};
  EXPECT_EQ(messages({facts, facts, facts})[0], "");
  EXPECT_EQ(messages({{}, {}})[0], "");
}

TEST(Agreement, TheDifferenceIsNamedWithBothValues) {
  const Facts first = {{"train.steps", "5"}, {"data.sources[0].weight", "1"}};
  const std::string text = messages({first, first, {{"train.steps", "6"}, {"data.sources[0].weight", "1"}}})[0];
  EXPECT_EQ(text.find("train.steps is 5 on rank 0 ("), 0U) << text;
  EXPECT_NE(text.find(") and 6 on rank 2 ("), std::string::npos) << text;
  EXPECT_EQ(text.find("weight"), std::string::npos) << text;
}

TEST(Agreement, AFactThatOneRankLacksIsADifference) {
  const std::string less = messages({{{"a", "1"}, {"b", "2"}}, {{"a", "1"}}})[0];
  EXPECT_EQ(less.find("b is 2 on rank 0 ("), 0U) << less;
  EXPECT_NE(less.find(") and (absent) on rank 1 ("), std::string::npos) << less;
  const std::string more = messages({{{"a", "1"}}, {{"a", "1"}, {"b", "2"}}})[0];
  EXPECT_EQ(more.find("b is (absent) on rank 0 ("), 0U) << more;
}

TEST(Agreement, ManyDifferencesAreAFewLines) {
  Facts ones, twos;
  for (int i = 0; i < 40; ++i) {
    ones.emplace_back(str("field", i), "1");
    twos.emplace_back(str("field", i), "2");
  }
  const std::string text = messages({ones, twos})[0];
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 6) << text;
  EXPECT_NE(text.find("and 35 more\n"), std::string::npos) << text;
}

TEST(SharedFolder, IsAcceptedAndLeftClean) {
  const testing::TempFolder folder;
  const auto inner = folder.path() / "runs" / "one";
  testing::run_ranks(3, [&](Communicator& ranks) { require_shared_folder(ranks, inner); });
  EXPECT_TRUE(std::filesystem::is_directory(inner));
  EXPECT_TRUE(std::filesystem::is_empty(inner));
}

TEST(SharedFolder, AFolderOfAnotherHostIsNamed) {
  const testing::TempFolder folder;
  std::vector<std::string> texts(2);
  testing::run_ranks(2, [&](Communicator& ranks) {
    try {
      require_shared_folder(ranks, folder.path() / str("host-", ranks.rank()), std::chrono::milliseconds(50));
    } catch (const Error& e) {
      texts[static_cast<size_t>(ranks.rank())] = e.what();
    }
  });
  for (const std::string& text : texts) {
    EXPECT_EQ(text.find("run.folder: rank 1 does not see in "), 0U) << text;
    EXPECT_NE(text.find("host-1"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace dga

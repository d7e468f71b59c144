#include "eval/score.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>

#include "evaluate_alone.h"
#include "util/error.h"
#include "util/file.h"
#include "util/signals.h"

namespace dga {
namespace {

namespace fs = std::filesystem;

class ScoreFile : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::temp_directory_path() / str("dga_score_test.", getpid(), ".", info->name());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  template <class T>
  fs::path write_bin(const std::string& name, const std::vector<T>& tokens) {
    std::ofstream(folder_ / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(tokens.data()), static_cast<std::streamsize>(tokens.size() * sizeof(T)));
    return folder_ / name;
  }

  std::vector<float> scores(const fs::path& path) {
    const std::string bytes = read_file(path);
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }

  fs::path folder_;
};

/// -(previous * 1000 + token): tells which pair was scored.
at::Tensor score_pairs(const WindowBatch& batch) {
  const int64_t length = batch.tokens.size(1);
  EXPECT_EQ(batch.first_scored, 1);
  return -(batch.tokens.slice(1, 0, length - 1) * 1000 + batch.tokens.slice(1, 1, length)).to(at::kFloat);
}

TEST_F(ScoreFile, OneValueATokenWithNanWhereAWindowBegins) {
  const fs::path input = write_bin<uint16_t>("a.u16", {5, 6, 7, 8, 9, 10, 11, 12});
  score_file(score_pairs, ScoreInput(input), {3, 1 << 20, 100}, {alone()}, folder_ / "out.f32");
  const std::vector<float> values = scores(folder_ / "out.f32");
  ASSERT_EQ(values.size(), 8U);
  for (const size_t i : {0, 3, 6}) EXPECT_TRUE(std::isnan(values[i])) << i;
  EXPECT_EQ(values[1], -5006);
  EXPECT_EQ(values[2], -6007);
  EXPECT_EQ(values[4], -8009);
  EXPECT_EQ(values[5], -9010);
  EXPECT_EQ(values[7], -11012);
}

TEST_F(ScoreFile, ReadsFourByteTokensAndBatchesOfAnySize) {
  std::vector<uint32_t> tokens;
  for (uint32_t i = 0; i < 103; ++i) tokens.push_back(70000 + i * i % 31);
  const fs::path input = write_bin("a.u32", tokens);
  std::vector<std::vector<float>> results;
  for (const int64_t batch_tokens : {1, 25, 1000}) {
    std::vector<int64_t> first;
    const WindowScorer scorer = [&](const WindowBatch& batch) {
      EXPECT_LE(batch.tokens.size(0), std::max<int64_t>(1, batch_tokens / 10));
      first.insert(first.end(), batch.first_token.begin(), batch.first_token.end());
      return score_pairs(batch);
    };
    score_file(scorer, ScoreInput(input), {10, batch_tokens, 80000}, {alone()}, folder_ / "out.f32");
    results.push_back(scores(folder_ / "out.f32"));
    EXPECT_EQ(first, (std::vector<int64_t>{0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100}));
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    for (const auto& result : results) {
      ASSERT_EQ(result.size(), tokens.size());
      if (i % 10 == 0) {
        EXPECT_TRUE(std::isnan(result[i]));
      } else {
        EXPECT_EQ(result[i], -static_cast<float>(tokens[i - 1] * 1000 + tokens[i]));
      }
    }
  }
}

TEST_F(ScoreFile, WindowsOfOneTokenAndAFileShorterThanAWindow) {
  const fs::path input = write_bin<uint16_t>("a.u16", {1, 2, 3});
  score_file(score_pairs, ScoreInput(input), {1, 100, 100}, {alone()}, folder_ / "one.f32");
  for (const float value : scores(folder_ / "one.f32")) EXPECT_TRUE(std::isnan(value));
  score_file(score_pairs, ScoreInput(input), {50, 10, 100}, {alone()}, folder_ / "short.f32");
  EXPECT_EQ(scores(folder_ / "short.f32")[2], -2003);
}

std::string error_of(const std::function<void()>& action, ExitCode expected) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), expected) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_F(ScoreFile, BadInputsAreNamed) {
  const auto open_error = [&](const fs::path& path) {
    return error_of([&] { ScoreInput input(path); }, ExitCode::input);
  };
  EXPECT_TRUE(contains(open_error(write_bin<uint8_t>("odd.u16", {1, 2, 3})), "3 bytes"));
  EXPECT_TRUE(contains(open_error(write_bin<uint16_t>("half.u32", {1, 2, 3})), "6 bytes"));
  EXPECT_TRUE(contains(open_error(write_bin<uint8_t>("empty.u16", {})), "empty"));
  EXPECT_TRUE(contains(open_error(write_bin<uint8_t>("a.bin", {1, 2})), ".u16"));
  EXPECT_TRUE(contains(open_error(folder_ / "missing.u16"), "missing.u16"));
}

TEST_F(ScoreFile, TextIsTokenisedWithoutBosAndEos) {
  const Tokenizer tokenizer(DGA_SOURCE_DIR "/data/tokenizer.model");
  const std::string text = "Let x be a number.\n\nThen  x = x; see \xC2\xA7 2.";
  std::ofstream(folder_ / "a.txt", std::ios::binary) << text;
  const ScoreInput input(folder_ / "a.txt", tokenizer);
  const std::vector<int32_t> expected = tokenizer.encode(text);
  ASSERT_EQ(input.size(), static_cast<int64_t>(expected.size()));
  for (int64_t i = 0; i < input.size(); ++i) EXPECT_EQ(input.at(i), expected[i]);
  EXPECT_NE(input.at(0), tokenizer.bos_id());

  std::ofstream(folder_ / "empty.txt").flush();
  error_of([&] { ScoreInput(folder_ / "empty.txt", tokenizer); }, ExitCode::input);
}

TEST_F(ScoreFile, ASignalEndsItWithoutOutput) {
  const fs::path input = write_bin<uint16_t>("a.u16", {1, 2, 3, 4, 5, 6, 7, 8});
  const auto stop_in_the_first_pass = [&] {
    install_stop_signals();
    int passes = 0;
    const WindowScorer scorer = [&](const WindowBatch& batch) {
      if (++passes == 1) raise(SIGTERM);
      return score_pairs(batch);
    };
    try {
      score_file(scorer, ScoreInput(input), {2, 2, 100}, {alone()}, folder_ / "out.f32");
    } catch (const Error& error) {
      std::_Exit(error.code() == ExitCode::terminated && passes == 1 ? 7 : 1);
    }
    std::_Exit(0);
  };
  EXPECT_EXIT(stop_in_the_first_pass(), ::testing::ExitedWithCode(7), "");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1);  // the input
}

TEST_F(ScoreFile, TokensBeyondTheVocabularyLeaveNoOutput) {
  const fs::path input = write_bin<uint16_t>("a.u16", {1, 2, 3, 4, 5, 100, 7});
  const std::string message = error_of(
      [&] {
        score_file(score_pairs, ScoreInput(input), {2, 2, 100}, {alone()}, folder_ / "out.f32");
      },
      ExitCode::input);
  EXPECT_TRUE(contains(message, "token 5 has id 100")) << message;
  int files = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(folder_)) ++files;
  EXPECT_EQ(files, 1) << "an unfinished output was left behind";
}

TEST_F(ScoreFile, AnEmptyWindowIsAUsageError) {
  const fs::path input = write_bin<uint16_t>("a.u16", {1, 2, 3});
  error_of(
      [&] {
        score_file(score_pairs, ScoreInput(input), {0, 2, 100}, {alone()}, folder_ / "out.f32");
      },
      ExitCode::usage);
}

}  // namespace
}  // namespace dga

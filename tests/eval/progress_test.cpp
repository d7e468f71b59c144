#include "eval/progress.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <csignal>

#include "eval/perplexity.h"
#include "eval/report.h"
#include "evaluate_alone.h"
#include "support/temp_folder.h"
#include "util/error.h"
#include "util/log.h"

namespace dga {
namespace {

/// Log-probabilities that depend on the tokens and their place.
at::Tensor scores(const WindowBatch& batch) {
  const at::Tensor tokens = batch.tokens.slice(1, batch.first_scored).to(at::kDouble);
  return -(tokens + at::arange(tokens.size(1), at::kDouble) * 0.37).sin().abs() - 0.1;
}

EvalText some_text() {
  EvalText text;
  for (int32_t document = 0; document < 6; ++document) {
    text.sequences.emplace_back();
    for (int32_t i = 0; i < 50 + 7 * document; ++i) text.sequences.back().push_back((i * i + document) % 11);
    text.documents += 1;
    text.tokens += static_cast<int64_t>(text.sequences.back().size());
  }
  return text;
}

EvalConfig some_config() {
  EvalConfig config;
  config.context_lengths = {8, 16, 32};
  config.stride = 8;
  config.per_document = true;
  config.batch_tokens = 32;
  config.position_buckets = 4;
  return config;
}

nlohmann::json without_seconds(nlohmann::json json) {
  for (nlohmann::json& length : json.at("results")) length.erase("seconds");
  return json;
}

EvalProgress progress(const std::filesystem::path& file) { return {file, "key", alone(), 0}; }

TEST(Progress, AnEvaluationStoppedAnywhereGoesOnToTheSameBits) {
  const testing::TempFolder folder;
  const EvalText text = some_text();
  const EvalConfig config = some_config();
  int64_t calls = 0;
  const auto whole = evaluate_alone(
      [&](const WindowBatch& batch) {
        ++calls;
        return scores(batch);
      },
      config, text, std::vector<int32_t>(11, 3));
  const int64_t passes = calls;
  for (const int64_t stop : {int64_t{1}, int64_t{2}, passes / 2, passes - 1}) {
    const auto file = folder.path() / str("e", stop, ".partial");
    calls = 0;
    const WindowScorer dying = [&](const WindowBatch& batch) {
      if (calls++ == stop) throw std::runtime_error("killed");
      return scores(batch);
    };
    const std::vector<int32_t> bytes(11, 3);
    EXPECT_THROW(evaluate_alone(dying, config, text, bytes, progress(file)), std::runtime_error);
    EvalProgress second = progress(file);
    calls = -1000000;
    const auto resumed = evaluate_perplexity(dying, config, text, bytes, {alone()}, second);
    EXPECT_EQ(calls, -1000000 + passes - stop) << stop;
    EXPECT_EQ(without_seconds(eval_json(resumed)), without_seconds(eval_json(whole))) << stop;
    second.finish();
    EXPECT_FALSE(std::filesystem::exists(file));
  }
}

TEST(Progress, OverATextThatHasChangedIsNotUsed) {
  log::set_level(log::Level::error);
  const testing::TempFolder folder;
  const auto file = folder.path() / "e.partial";
  EvalText text = some_text();
  evaluate_alone(scores, some_config(), text, {},
                 progress(file));  // its last state stays, since finish() is not called
  text.sequences.emplace_back(40, 1);
  text.documents += 1;
  text.tokens += 40;
  EXPECT_EQ(without_seconds(eval_json(evaluate_alone(scores, some_config(), text, {}, progress(file)))),
            without_seconds(eval_json(evaluate_alone(scores, some_config(), text, {}))));
}

nlohmann::json earlier(const std::filesystem::path& file, const std::string& key) {
  return EvalProgress(file, key, alone(), 0).earlier();
}

TEST(Progress, OfAnotherEvaluationIsNotUsed) {
  log::set_level(log::Level::error);
  const testing::TempFolder folder;
  const auto file = folder.path() / "e.partial";
  EvalProgress(file, "one", alone(), 0).after_round(0, [] { return nlohmann::json{1, 2}; });
  EXPECT_EQ(earlier(file, "one"), nlohmann::json({1, 2}));
  EXPECT_TRUE(earlier(file, "two").is_null());
  folder.write("e.partial", "{\"key\": \"on");
  EXPECT_TRUE(earlier(file, "one").is_null());
}

TEST(Progress, WaitsBetweenWritingsButNotWithASignal) {
  const testing::TempFolder folder;
  const auto file = folder.path() / "e.partial";
  EvalProgress rare(file, "key", alone(), 3600);
  rare.after_round(0, [] { return nlohmann::json{1}; });
  EXPECT_FALSE(std::filesystem::exists(file));
  try {
    rare.after_round(SIGTERM, [] { return nlohmann::json{2}; });
    ADD_FAILURE() << "went on";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::terminated);
  }
  EXPECT_EQ(earlier(file, "key"), nlohmann::json{2});
  EXPECT_NO_THROW(EvalProgress().after_round(0, [] { return nlohmann::json{3}; }));
  EXPECT_THROW(EvalProgress().after_round(SIGTERM, [] { return nlohmann::json{3}; }), Error);
}

}  // namespace
}  // namespace dga

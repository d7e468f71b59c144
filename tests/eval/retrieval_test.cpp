// Prompts, and models whose right answers are known: one that copies, one that sees a window alone, one that errs.
#include "eval/retrieval.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "evaluate_alone.h"
#include "support/temp_folder.h"
#include "util/error.h"

namespace dga {
namespace {

using Tokens = std::vector<int32_t>;

const Tokenizer& tokenizer() {
  static const Tokenizer instance(std::filesystem::path(DGA_SOURCE_DIR) / "data/tokenizer.model");
  return instance;
}

RetrievalConfig config_of(std::vector<int64_t> lengths, int64_t samples, int64_t seed = 1) {
  RetrievalConfig config;
  config.lengths = std::move(lengths);
  config.samples = samples;
  config.seed = seed;
  return config;
}

size_t occurrences(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

/// What follows the last earlier occurrence, from `begin` on, of the last three of the tokens; 0 where there is none.
int32_t copied(const Tokens& tokens, size_t begin) {
  constexpr size_t kMatch = 3;
  const auto suffix = tokens.end() - kMatch;
  for (size_t at = tokens.size() - kMatch; at-- > begin;) {
    if (std::equal(suffix, tokens.end(), tokens.begin() + static_cast<std::ptrdiff_t>(at))) return tokens[at + kMatch];
  }
  return 0;
}

/// A model of a function from the tokens so far to the next.
NextTokens model_of(std::function<int32_t(const Tokens&)> next) {
  return [next](const at::Tensor& tokens, int64_t first) {
    at::Tensor result = at::empty({tokens.size(0), tokens.size(1) - first}, at::kLong);
    for (int64_t row = 0; row < tokens.size(0); ++row) {
      Tokens context;
      for (int64_t t = 0; t < tokens.size(1); ++t) {
        context.push_back(static_cast<int32_t>(tokens[row][t].item<int64_t>()));
        if (t >= first) result[row][t - first] = next(context);
      }
    }
    return result;
  };
}

NextTokens copying_model(size_t window) {
  return model_of([window](const Tokens& t) { return copied(t, t.size() > window ? t.size() - window : 0); });
}

/// Looks the asked key up in the text.
NextTokens lookup_model() {
  return model_of([](const Tokens& tokens) {
    const std::string text = tokenizer().decode(tokens), mark = "The value of \"";
    const size_t asked = text.rfind(mark) + mark.size();
    const std::string key = text.substr(asked, 36);
    const size_t line = text.find("\"" + key + "\": ") + 40;
    const Tokens value = tokenizer().encode(text.substr(line, 36));
    // How much of the value stands there already.
    const Tokens question = tokenizer().encode("The value of \"" + key + "\" is:");
    const auto begin = std::find_end(tokens.begin(), tokens.end(), question.begin(), question.end());
    const auto given = static_cast<size_t>(tokens.end() - begin) - question.size();
    return given < value.size() ? value[given] : 0;
  });
}

TEST(RetrievalPrompts, PasskeyHasTheLengthAndTellsTheNumberOnceAndAgain) {
  const RetrievalConfig config = config_of({}, 20);
  std::set<std::string> numbers;
  size_t last_place = 0;
  for (int64_t sample = 0; sample < 20; ++sample) {
    const RetrievalPrompt prompt = make_retrieval_prompt(RetrievalTask::passkey, tokenizer(), 400, sample, config);
    EXPECT_EQ(prompt.tokens.size(), 400U);
    EXPECT_EQ(prompt.tokens[0], tokenizer().bos_id());
    const std::string text = tokenizer().decode(prompt.tokens), number = tokenizer().decode(prompt.answer);
    EXPECT_EQ(number.size(), 5U) << number;
    EXPECT_EQ(occurrences(text, number), 2U);
    const size_t place = text.find(number);
    EXPECT_GT(place, last_place);  // depths grow
    last_place = place;
    numbers.insert(number);
  }
  EXPECT_GT(numbers.size(), 15U);
}

TEST(RetrievalPrompts, PairsFillTheLengthAndHoldTheAnswer) {
  for (const int64_t length : {200, 1000}) {
    for (int64_t sample = 0; sample < 5; ++sample) {
      const RetrievalPrompt prompt =
          make_retrieval_prompt(RetrievalTask::kv_retrieval, tokenizer(), length, sample, config_of({}, 5));
      const auto size = static_cast<int64_t>(prompt.tokens.size());
      EXPECT_LE(size, length);
      EXPECT_GT(size, length - 120);  // a pair takes about 90 tokens of this small vocabulary
      const std::string text = tokenizer().decode(prompt.tokens), value = tokenizer().decode(prompt.answer);
      EXPECT_EQ(value.size(), 36U);
      EXPECT_EQ(value[14], '4');
      EXPECT_NE(std::string("89ab").find(value[19]), std::string::npos) << value;
      EXPECT_EQ(occurrences(text, value), 1U);
      EXPECT_EQ(occurrences(text, "\": "), static_cast<size_t>(prompt.items));
    }
  }
}

TEST(RetrievalPrompts, DependOnSeedLengthAndSample) {
  const auto tokens = [](int64_t length, int64_t sample, int64_t seed) {
    return make_retrieval_prompt(RetrievalTask::kv_retrieval, tokenizer(), length, sample, config_of({}, 9, seed))
        .tokens;
  };
  EXPECT_EQ(tokens(300, 2, 1), tokens(300, 2, 1));
  EXPECT_NE(tokens(300, 2, 1), tokens(300, 3, 1));
  EXPECT_NE(tokens(300, 2, 1), tokens(300, 2, 2));
}

TEST(RetrievalPrompts, TooShortALengthIsAConfigError) {
  for (const RetrievalTask task : {RetrievalTask::passkey, RetrievalTask::kv_retrieval}) {
    try {
      make_retrieval_prompt(task, tokenizer(), 20, 0, config_of({}, 1));
      ADD_FAILURE() << "made";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::config);
      EXPECT_NE(std::string(error.what()).find("takes at least"), std::string::npos);
    }
  }
}

std::vector<RetrievalResult> ask_alone(const NextTokens& next, Asking asking, RetrievalTask task,
                                       const Tokenizer& tokenizer, const RetrievalConfig& config,
                                       int64_t batch_tokens) {
  EvalProgress progress;
  return evaluate_retrieval(next, asking, task, tokenizer, config, batch_tokens, {alone()}, progress);
}

TEST(Retrieval, AModelThatCopiesFindsEveryPasskey) {
  for (const Asking asking : {Asking::at_once, Asking::token_by_token}) {
    const auto results =
        ask_alone(copying_model(100000), asking, RetrievalTask::passkey, tokenizer(), config_of({150, 400}, 7), 1000);
    ASSERT_EQ(results.size(), 2U);
    for (const RetrievalResult& result : results) {
      EXPECT_EQ(result.samples, 7);
      EXPECT_EQ(result.matches, 7);
      EXPECT_EQ(result.mean_prompt_tokens, static_cast<double>(result.length));
    }
  }
}

TEST(Retrieval, AModelThatSeesAWindowFindsWhatLiesInIt) {
  constexpr int64_t kLength = 400, kSamples = 20;
  constexpr size_t kWindow = 200;
  const RetrievalConfig config = config_of({kLength}, kSamples);
  int64_t inside = 0;
  for (int64_t sample = 0; sample < kSamples; ++sample) {
    const RetrievalPrompt prompt = make_retrieval_prompt(RetrievalTask::passkey, tokenizer(), kLength, sample, config);
    const Tokens needle = tokenizer().encode("Remember: " + tokenizer().decode(prompt.answer) + ".");
    const auto at = std::search(prompt.tokens.begin(), prompt.tokens.end(), needle.begin(), needle.end());
    ASSERT_NE(at, prompt.tokens.end());
    inside += static_cast<size_t>(prompt.tokens.end() - at) < kWindow - 30 ? 1 : 0;
  }
  const auto result =
      ask_alone(copying_model(kWindow), Asking::at_once, RetrievalTask::passkey, tokenizer(), config, 4096)[0];
  EXPECT_GE(result.matches, inside);
  EXPECT_LE(result.matches, inside + 3);  // those at the window's edge
  EXPECT_GT(inside, 4);
  EXPECT_EQ(result.by_depth.front().matches, 0);
  EXPECT_EQ(result.by_depth.back().matches, result.by_depth.back().samples);
}

TEST(Retrieval, AModelThatLooksKeysUpFindsEveryValue) {
  const auto results =
      ask_alone(lookup_model(), Asking::at_once, RetrievalTask::kv_retrieval, tokenizer(), config_of({600}, 6), 4096);
  EXPECT_EQ(results[0].matches, 6);
  EXPECT_GT(results[0].mean_items, 2);
}

TEST(Retrieval, OneWrongTokenIsNoMatch) {
  for (int64_t seed = 1; seed <= 5; ++seed) {
    const RetrievalConfig config = config_of({150}, 1, seed);
    const size_t size = make_retrieval_prompt(RetrievalTask::passkey, tokenizer(), 150, 0, config).answer.size();
    for (const size_t wrong : {size_t{0}, size - 1}) {  // of the answer's tokens
      const NextTokens model = model_of([&](const Tokens& t) { return t.size() == 150 + wrong ? 0 : copied(t, 0); });
      const auto results = ask_alone(model, Asking::at_once, RetrievalTask::passkey, tokenizer(), config, 1000);
      EXPECT_EQ(results[0].matches, 0) << "seed " << seed << ", token " << wrong << " of " << size;
    }
  }
}

TEST(Retrieval, GoesOnWhereItWasStopped) {
  const testing::TempFolder folder;
  const RetrievalConfig config = config_of({150, 200}, 6);
  const NextTokens model = copying_model(120);
  const auto run = [&](const NextTokens& next, EvalProgress progress) {
    return retrieval_json(
        RetrievalTask::passkey, config,
        evaluate_retrieval(next, Asking::at_once, RetrievalTask::passkey, tokenizer(), config, 1, {alone()}, progress));
  };
  int64_t calls = 0;
  const NextTokens dying = [&](const at::Tensor& tokens, int64_t first) {
    if (++calls == 9) throw std::runtime_error("killed");
    return model(tokens, first);
  };
  const auto kept = [&] { return EvalProgress(folder.path() / "r.partial", "key", alone(), 0); };
  EXPECT_THROW(run(dying, kept()), std::runtime_error);
  calls = -100;
  EXPECT_EQ(run(dying, kept()), run(model, {}));
  EXPECT_EQ(calls, -100 + 4);  // eight of twelve prompts were answered
}

TEST(RetrievalReport, HasCountsAndIntervals) {
  const auto results = ask_alone(copying_model(100000), Asking::at_once, RetrievalTask::passkey, tokenizer(),
                                 config_of({150}, 20), 1000);
  nlohmann::json json = retrieval_json(RetrievalTask::passkey, config_of({150}, 20), results);
  EXPECT_EQ(json.at("results").at(0).at("exact_match"), 1.0);
  EXPECT_NEAR(json.at("results").at(0).at("ci95").at(0).get<double>(), 0.8389, 1e-4);
  json["attention"] = "full";
  json["looks_ahead"] = false;
  EXPECT_NE(retrieval_table(json).find("   150       20          100.0    83.9-100.0   4/4 4/4"), std::string::npos)
      << retrieval_table(json);
}

}  // namespace
}  // namespace dga

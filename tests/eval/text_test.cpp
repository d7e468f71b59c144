#include "eval/text.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

namespace dga {
namespace {

using Documents = std::vector<std::vector<int32_t>>;

/// Hands out documents one by one and counts how many were asked for.
struct Source {
  Documents documents;
  size_t next = 0;

  NextDocument reader() {
    return [this]() -> std::optional<std::vector<int32_t>> {
      if (next == documents.size()) return std::nullopt;
      return documents[next++];
    };
  }
};

EvalText make(const EvalConfig& config, Documents documents, const DocumentEnds& ends = {1, 2}) {
  Source source{std::move(documents)};
  return make_eval_text(config, source.reader(), ends);
}

TEST(EvalText, StreamIsAllDocumentsWithTheirEnds) {
  const EvalText text = make({}, {{10, 11}, {20}});
  EXPECT_EQ(text.sequences, (Documents{{1, 10, 11, 2, 1, 20, 2}}));
  EXPECT_EQ(text.documents, 2);
  EXPECT_EQ(text.tokens, 7);
}

TEST(EvalText, EndsAreSettingsAndMayNotExist) {
  EvalConfig config;
  config.eos = false;
  EXPECT_EQ(make(config, {{10}, {20}}).sequences, (Documents{{1, 10, 1, 20}}));
  config.bos = false;
  EXPECT_EQ(make(config, {{10}, {20}}).sequences, (Documents{{10, 20}}));
  EXPECT_EQ(make({}, {{10}, {20}}, {}).sequences, (Documents{{10, 20}}));
}

TEST(EvalText, DocumentsOnTheirOwn) {
  EvalConfig config;
  config.per_document = true;
  EXPECT_EQ(make(config, {{10, 11}, {}, {20}}).sequences, (Documents{{1, 10, 11, 2}, {1, 20, 2}}));
}

TEST(EvalText, MinimumCountsTheDocumentWithoutItsEnds) {
  EvalConfig config;
  config.per_document = true;
  config.min_document_tokens = 2;
  EXPECT_EQ(make(config, {{10}, {20, 21}}).sequences, (Documents{{1, 20, 21, 2}}));
}

TEST(EvalText, LimitsCutTheLastDocumentAndStopReading) {
  EvalConfig config;
  config.max_tokens = 6;
  Source source{{{10, 11}, {20, 21, 22}, {30}}};
  const EvalText text = make_eval_text(config, source.reader(), {1, 2});
  EXPECT_EQ(text.sequences, (Documents{{1, 10, 11, 2, 1, 20}}));
  EXPECT_EQ(text.tokens, 6);
  EXPECT_EQ(source.next, 2U);

  config.max_tokens = 0;
  config.max_documents = 1;
  EXPECT_EQ(make(config, {{10}, {20}}).sequences, (Documents{{1, 10, 2}}));
}

TEST(EvalText, LongDocumentsAreCutWithoutEos) {
  EvalConfig config;
  config.per_document = true;
  config.max_document_tokens = 3;
  EXPECT_EQ(make(config, {{10, 11, 12}, {20}}).sequences, (Documents{{1, 10, 11}, {1, 20, 2}}));
}

TEST(EvalText, NothingLeftIsAnInputError) {
  EvalConfig config;
  config.min_document_tokens = 5;
  try {
    make(config, {{10}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::input);
  }
}

TEST(EvalText, SourcesTakeTurnsByTokens) {
  const auto folder = std::filesystem::temp_directory_path() / str("dga_text_test.", getpid());
  std::filesystem::create_directories(folder);
  const auto source = [&](const std::string& name, const std::vector<uint16_t>& tokens) {
    std::ofstream(folder / (name + ".u16"), std::ios::binary)
        .write(reinterpret_cast<const char*>(tokens.data()), static_cast<std::streamsize>(2 * tokens.size()));
    SourceConfig config;
    config.name = name;
    config.paths = {(folder / (name + ".u16")).string()};
    config.separator = 9;
    return config;
  };
  EvalConfig eval;
  eval.per_document = true;
  eval.sources = {source("a", {10, 11, 12, 9, 13, 9, 14, 9}), source("b", {20, 9, 21, 22, 23, 9})};
  DataConfig data;
  data.bos_id = 1;
  data.eos_id = 2;
  data.cache = (folder / "cache").string();
  EXPECT_EQ(read_eval_text(eval, data, nullptr).sequences,
            (Documents{{1, 10, 11, 12, 2}, {1, 20, 2}, {1, 21, 22, 23, 2}, {1, 13, 2}, {1, 14, 2}}));
  eval.max_documents = 2;
  EXPECT_EQ(read_eval_text(eval, data, nullptr).sequences, (Documents{{1, 10, 11, 12, 2}, {1, 20, 2}}));
  eval.sources.clear();
  EXPECT_THROW(read_eval_text(eval, data, nullptr), Error);
  std::filesystem::remove_all(folder);
}

TEST(TextEntropy, OfHandCountedTokens) {
  // a a b: p(a) = 2/3; pairs aa, ab: after a both are equally likely.
  const TextEntropy entropy = text_entropy({{7, 7, 9}});
  EXPECT_NEAR(entropy.unigram, -(2.0 / 3 * std::log(2.0 / 3) + 1.0 / 3 * std::log(1.0 / 3)), 1e-12);
  EXPECT_NEAR(entropy.bigram, std::log(2.0), 1e-12);
}

TEST(TextEntropy, UniformAndDeterministicTexts) {
  std::vector<int32_t> cycle;
  for (int i = 0; i < 4000; ++i) cycle.push_back(i % 4);
  const TextEntropy entropy = text_entropy({cycle});
  EXPECT_NEAR(entropy.unigram, std::log(4.0), 1e-12);
  EXPECT_NEAR(entropy.bigram, 0.0, 1e-12);
}

TEST(TextEntropy, PairsStayInsideASequence) {
  // Inside: 1 2 and 2 3, each certain. Across the border there would also be 2 2, and after 2 a choice.
  EXPECT_NEAR(text_entropy({{1, 2}, {2, 3}}).bigram, 0.0, 1e-12);
  EXPECT_EQ(text_entropy({}).unigram, 0.0);
}

}  // namespace
}  // namespace dga

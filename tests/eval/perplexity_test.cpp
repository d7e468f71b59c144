#include "eval/perplexity.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "evaluate_alone.h"
#include "support/tensor_compare.h"

namespace dga {
namespace {

constexpr int64_t kVocab = 13;

/// Log-probability of `next` after `previous`: a bigram model with known numbers.
double bigram_log_prob(int64_t previous, int64_t next) {
  double sum = 0.0;
  for (int64_t token = 0; token < kVocab; ++token) sum += std::exp(std::sin(1.0 + 3.0 * previous + 5.0 * token));
  return std::sin(1.0 + 3.0 * previous + 5.0 * next) - std::log(sum);
}

at::Tensor score_bigrams(const WindowBatch& batch) {
  const auto tokens = batch.tokens.accessor<int64_t, 2>();
  at::Tensor scores = at::empty({batch.tokens.size(0), batch.tokens.size(1) - batch.first_scored}, at::kDouble);
  for (int64_t row = 0; row < scores.size(0); ++row) {
    for (int64_t i = 0; i < scores.size(1); ++i) {
      const int64_t t = batch.first_scored + i;
      scores[row][i] = bigram_log_prob(tokens[row][t - 1], tokens[row][t]);
    }
  }
  return scores;
}

/// Scores that tell the length of the context: -(tokens before it in the window).
at::Tensor score_context_length(const WindowBatch& batch) {
  const at::Tensor scores = -at::arange(batch.first_scored, batch.tokens.size(1), at::kDouble);
  return scores.expand({batch.tokens.size(0), scores.size(0)});
}

std::vector<int32_t> some_tokens(int64_t count, int64_t salt = 0) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>((i * i * 7 + i * 3 + salt) % kVocab));
  return tokens;
}

EvalText text_of(std::vector<std::vector<int32_t>> sequences) {
  EvalText text;
  text.documents = static_cast<int64_t>(sequences.size());
  for (const auto& sequence : sequences) text.tokens += static_cast<int64_t>(sequence.size());
  text.sequences = std::move(sequences);
  return text;
}

EvalConfig config_of(EvalProtocol protocol, std::vector<int64_t> lengths, int64_t stride) {
  EvalConfig config;
  config.protocol = protocol;
  config.context_lengths = std::move(lengths);
  config.stride = stride;
  return config;
}

double bigram_nll_sum(const std::vector<int32_t>& tokens, int64_t begin, int64_t end) {
  double sum = 0.0;
  for (int64_t t = begin; t < end; ++t) sum -= bigram_log_prob(tokens[t - 1], tokens[t]);
  return sum;
}

TEST(Perplexity, SlidingScoresEveryTokenOfTheStreamOnce) {
  const std::vector<int32_t> tokens = some_tokens(50);
  const EvalResult result =
      evaluate_alone(score_bigrams, config_of(EvalProtocol::sliding, {8, 20, 100}, 4), text_of({tokens}), {});
  ASSERT_EQ(result.lengths.size(), 3U);
  const double expected = bigram_nll_sum(tokens, 1, 50) / 49;
  for (const LengthResult& length : result.lengths) {
    EXPECT_EQ(length.tokens_scored, 49);
    EXPECT_NEAR(length.nll, expected, 1e-12);
    EXPECT_NEAR(length.perplexity, std::exp(expected), 1e-12);
    EXPECT_FALSE(length.bits_per_byte.has_value());
    EXPECT_FALSE(length.document_perplexity_mean.has_value());
  }
  EXPECT_EQ(result.lengths[0].windows, 12);  // ends at 8, 12, ..., 48 and 50
  EXPECT_EQ(result.lengths[2].windows, 1);
}

TEST(Perplexity, SlidingGivesEveryTokenTheContextOfItsFirstWindow) {
  // Windows 0-5, 2-7, 4-9 of 10 tokens: contexts 1 2 3 4 5, then 4 5, then 4 5.
  const EvalResult result =
      evaluate_alone(score_context_length, config_of(EvalProtocol::sliding, {6}, 2), text_of({some_tokens(10)}), {});
  EXPECT_EQ(result.lengths[0].tokens_scored, 9);
  EXPECT_NEAR(result.lengths[0].nll, (1 + 2 + 3 + 4 + 5 + 4 + 5 + 4 + 5) / 9.0, 1e-12);
}

TEST(Perplexity, LongLoraCountsOverlapsAndDropsTheShortWindow) {
  const std::vector<int32_t> tokens = some_tokens(11);
  const EvalResult result =
      evaluate_alone(score_bigrams, config_of(EvalProtocol::longlora, {6}, 2), text_of({tokens}), {});
  const double sum = bigram_nll_sum(tokens, 1, 6) + bigram_nll_sum(tokens, 3, 8) + bigram_nll_sum(tokens, 5, 10);
  EXPECT_EQ(result.lengths[0].windows, 3);
  EXPECT_EQ(result.lengths[0].tokens_scored, 15);
  EXPECT_NEAR(result.lengths[0].nll, sum / 15, 1e-12);
}

TEST(Perplexity, PerDocumentMeanWeighsDocumentsAlike) {
  const std::vector<int32_t> first = some_tokens(5), second = some_tokens(31, 4);
  EvalConfig config = config_of(EvalProtocol::sliding, {8}, 4);
  config.per_document = true;
  const LengthResult length = evaluate_alone(score_bigrams, config, text_of({first, second, {3}}), {}).lengths[0];
  const double a = bigram_nll_sum(first, 1, 5), b = bigram_nll_sum(second, 1, 31);
  EXPECT_EQ(length.documents_scored, 2);  // a document of one token has nothing to score
  EXPECT_EQ(length.tokens_scored, 34);
  EXPECT_NEAR(length.nll, (a + b) / 34, 1e-12);
  ASSERT_TRUE(length.document_perplexity_mean.has_value());
  EXPECT_NEAR(*length.document_perplexity_mean, (std::exp(a / 4) + std::exp(b / 30)) / 2, 1e-12);
}

TEST(Perplexity, TruncationLeavesOneWindowADocument) {
  const std::vector<int32_t> first = some_tokens(40), second = some_tokens(50, 4);
  EvalConfig config = config_of(EvalProtocol::sliding, {8, 32}, 4);
  config.per_document = true;
  config.truncate_to_context = true;
  const EvalResult result = evaluate_alone(score_bigrams, config, text_of({first, second}), {});
  for (const LengthResult& length : result.lengths) {
    const int64_t n = length.context_length;
    EXPECT_EQ(length.windows, 2);
    EXPECT_EQ(length.tokens_scored, 2 * (n - 1));
    EXPECT_NEAR(length.nll, (bigram_nll_sum(first, 1, n) + bigram_nll_sum(second, 1, n)) / (2 * (n - 1)), 1e-12);
  }
}

TEST(Perplexity, BitsPerByteCountTheBytesOfScoredTokens) {
  const std::vector<int32_t> tokens = some_tokens(21);
  std::vector<int32_t> bytes(kVocab);
  for (int64_t id = 0; id < kVocab; ++id) bytes[id] = static_cast<int32_t>(id % 4);
  const EvalResult result =
      evaluate_alone(score_bigrams, config_of(EvalProtocol::sliding, {8}, 4), text_of({tokens}), bytes);
  int64_t scored_bytes = 0;
  for (int64_t t = 1; t < 21; ++t) scored_bytes += bytes[tokens[t]];
  ASSERT_TRUE(result.lengths[0].bits_per_byte.has_value());
  EXPECT_NEAR(*result.lengths[0].bits_per_byte, bigram_nll_sum(tokens, 1, 21) / std::log(2.0) / scored_bytes, 1e-12);
  EXPECT_EQ(result.text_bytes, scored_bytes + bytes[tokens[0]]);
}

TEST(Perplexity, BatchesChangeNothingButTheirSize) {
  const EvalText text = text_of({some_tokens(50), some_tokens(7, 2), some_tokens(33, 5)});
  for (const EvalProtocol protocol : {EvalProtocol::sliding, EvalProtocol::longlora}) {
    EvalConfig config = config_of(protocol, {6}, 3);
    config.per_document = true;
    std::map<int64_t, LengthResult> results;
    std::map<int64_t, int64_t> largest;
    for (const int64_t batch_tokens : {1, 12, 1000}) {
      config.batch_tokens = batch_tokens;
      const WindowScorer scorer = [&](const WindowBatch& batch) {
        largest[batch_tokens] = std::max(largest[batch_tokens], batch.tokens.size(0));
        return score_bigrams(batch);
      };
      results[batch_tokens] = evaluate_alone(scorer, config, text, {}).lengths[0];
    }
    EXPECT_EQ(largest[1], 1);
    EXPECT_EQ(largest[12], 2);
    EXPECT_GT(largest[1000], 5);
    EXPECT_EQ(results[1].nll, results[12].nll);
    EXPECT_EQ(results[1].nll, results[1000].nll);
    EXPECT_EQ(results[1].document_perplexity_mean, results[1000].document_perplexity_mean);
  }
}

TEST(Perplexity, WindowsAreNumberedByTheirFirstTokenInTheText) {
  EvalConfig config = config_of(EvalProtocol::sliding, {4}, 4);
  config.per_document = true;
  std::vector<int64_t> numbers;
  const WindowScorer scorer = [&](const WindowBatch& batch) {
    numbers.insert(numbers.end(), batch.first_token.begin(), batch.first_token.end());
    return score_bigrams(batch);
  };
  evaluate_alone(scorer, config, text_of({some_tokens(8), some_tokens(6)}), {});
  EXPECT_EQ(numbers, (std::vector<int64_t>{0, 4, 8, 12}));
}

ExitCode code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code();
  }
  return ExitCode::ok;
}

TEST(Perplexity, RefusesTextsWithoutAWindowAndScoresThatAreNoNumbers) {
  const auto evaluate = [](const WindowScorer& scorer, EvalProtocol protocol, int64_t tokens) {
    evaluate_alone(scorer, config_of(protocol, {8}, 4), text_of({some_tokens(tokens)}), {});
  };
  EXPECT_EQ(code_of([&] { evaluate(score_bigrams, EvalProtocol::longlora, 7); }), ExitCode::config);
  EXPECT_EQ(code_of([&] { evaluate(score_bigrams, EvalProtocol::longlora, 8); }), ExitCode::ok);
  EXPECT_EQ(code_of([&] { evaluate(score_bigrams, EvalProtocol::sliding, 1); }), ExitCode::config);
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()}) {
    const WindowScorer scorer = [bad](const WindowBatch& batch) {
      at::Tensor scores = score_bigrams(batch);
      scores[0][1] = bad;
      return scores;
    };
    EXPECT_EQ(code_of([&] { evaluate(scorer, EvalProtocol::sliding, 30); }), ExitCode::numerics);
  }
}

LlamaConfig tiny_llama() {
  LlamaConfig config;
  config.vocab_size = kVocab;
  config.hidden_size = 16;
  config.intermediate_size = 24;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 4;
  config.initializer_range = 0.3;
  return config;
}

AttentionConfig dga_attention(Selection selection) {
  AttentionConfig attention;
  attention.kind = AttentionKind::dga;
  attention.selection = selection;
  attention.focal_ratio = 0.25;
  attention.group_size = 2;
  attention.local_window = 2;
  attention.block_size = 4;
  attention.local_blocks = 1;
  return attention;
}

TEST(ModelPerplexity, ZeroOutputWeightGivesTheLogOfTheVocabulary) {
  const Llama model(tiny_llama(), {}, 1, at::kFloat, at::kCPU);
  at::Tensor output = model.output_weight().detach();
  output.zero_();
  const EvalResult result =
      evaluate_alone(model, {}, config_of(EvalProtocol::sliding, {8, 16}, 4), text_of({some_tokens(40)}), {});
  for (const LengthResult& length : result.lengths) EXPECT_NEAR(length.nll, std::log(double(kVocab)), 1e-6);
  EXPECT_NEAR(result.lengths[0].perplexity, kVocab, 1e-4);
}

/// The mean over windows computed from whole logits, one window at a time.
TEST(ModelPerplexity, EqualsLogSoftmaxOfEveryWindow) {
  const at::NoGradGuard no_grad;
  const std::vector<int32_t> tokens = some_tokens(30);
  for (const Selection selection : {Selection::global, Selection::causal, Selection::random, Selection::none}) {
    const AttentionConfig attention = dga_attention(selection);
    const Llama model(tiny_llama(), attention, 1, at::kFloat, at::kCPU);
    const EvalResult result =
        evaluate_alone(model, attention, config_of(EvalProtocol::longlora, {12}, 5), text_of({tokens}), {});
    double sum = 0.0;
    for (const int64_t start : {0, 5, 10, 15}) {
      const std::vector<int64_t> window(tokens.begin() + start, tokens.begin() + start + 12);
      const at::Tensor ids = at::tensor(window).unsqueeze(0);
      SequenceLayout layout = SequenceLayout::whole_rows(1, 12);
      layout.first_token = {start};
      const at::Tensor logits = at::matmul(model.forward(ids, layout), model.output_weight().t()).detach();
      const at::Tensor log_probs = at::log_softmax(logits[0].to(at::kDouble), -1);
      for (int64_t t = 1; t < 12; ++t) sum -= log_probs[t - 1][window[t]].item<double>();
    }
    EXPECT_EQ(result.lengths[0].tokens_scored, 44);
    EXPECT_NEAR(result.lengths[0].nll, sum / 44, 1e-5) << config::name_of(selection);
    EXPECT_EQ(result.looks_ahead, selection == Selection::global) << config::name_of(selection);
  }
}

TEST(ModelPerplexity, VisiblePairsAreThoseOfTheAttention) {
  const Llama model(tiny_llama(), {}, 1, at::kFloat, at::kCPU);
  const EvalResult result =
      evaluate_alone(model, {}, config_of(EvalProtocol::sliding, {8}, 4), text_of({some_tokens(40)}), {});
  EXPECT_EQ(result.attention, "full");
  EXPECT_FALSE(result.looks_ahead);
  ASSERT_TRUE(result.lengths[0].visible_pairs_per_token.has_value());
  EXPECT_DOUBLE_EQ(*result.lengths[0].visible_pairs_per_token, 4.5);  // (1 + 2 + ... + 8) / 8
}

TEST(ModelPerplexity, TokensBeyondTheVocabularyAreNamed) {
  const Llama model(tiny_llama(), {}, 1, at::kFloat, at::kCPU);
  std::vector<int32_t> tokens = some_tokens(20);
  tokens[11] = kVocab;
  try {
    evaluate_alone(model, {}, config_of(EvalProtocol::sliding, {8}, 4), text_of({tokens}), {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::input);
    EXPECT_NE(std::string(error.what()).find("token 11"), std::string::npos) << error.what();
  }
}

TEST(Perplexity, ByPositionCountsTheTokensBeforeInTheWindow) {
  // The scorer's loss is the number of tokens before, so that every stretch's mean is the mean of its positions.
  EvalConfig config = config_of(EvalProtocol::longlora, {16}, 16);
  config.position_buckets = 4;
  const LengthResult result =
      evaluate_alone(score_context_length, config, text_of({some_tokens(16 * 5)}), {}).lengths.at(0);
  ASSERT_EQ(result.by_position.size(), 4U);
  const std::vector<double> means = {2.0, 5.5, 9.5, 13.5};  // the first token of a window is not scored
  for (size_t i = 0; i < 4; ++i) {
    const PositionResult& part = result.by_position[i];
    EXPECT_EQ(part.begin, static_cast<int64_t>(4 * i));
    EXPECT_EQ(part.end, static_cast<int64_t>(4 * i + 4));
    EXPECT_EQ(part.sum.tokens, i == 0 ? 15 : 20);
    EXPECT_DOUBLE_EQ(part.sum.mean(), means[i]);
  }
  // More stretches than positions, and a length that they do not divide.
  config = config_of(EvalProtocol::longlora, {10}, 10);
  config.position_buckets = 100;
  EXPECT_EQ(
      evaluate_alone(score_context_length, config, text_of({some_tokens(20)}), {}).lengths.at(0).by_position.size(),
      10U);
  config.position_buckets = 4;
  const auto parts =
      evaluate_alone(score_context_length, config, text_of({some_tokens(20)}), {}).lengths.at(0).by_position;
  for (const PositionResult& part : parts) {
    double sum = 0;
    int64_t count = 0;
    for (int64_t p = std::max<int64_t>(1, part.begin); p < part.end; ++p, ++count) sum += static_cast<double>(p);
    EXPECT_DOUBLE_EQ(part.sum.mean(), sum / static_cast<double>(count)) << part.begin;
  }
}

TEST(Perplexity, TheIntervalComesFromDocumentsOrStretches) {
  EvalConfig config = config_of(EvalProtocol::longlora, {10}, 10);
  // Two stretches of equal losses scatter nothing; one has no scatter to tell.
  EXPECT_EQ(evaluate_alone(score_context_length, config, text_of({some_tokens(10)}), {}).lengths[0].nll_ci95,
            std::nullopt);
  EXPECT_NEAR(*evaluate_alone(score_context_length, config, text_of({some_tokens(20)}), {}).lengths[0].nll_ci95, 0,
              1e-12);
  config = config_of(EvalProtocol::sliding, {64}, 64);
  config.per_document = true;
  // Documents of 3 and 5 tokens: sums 1 + 2 and 1 + 2 + 3 + 4 over 2 and 4 tokens, mean 13/6, residuals -+ 4/3.
  const auto result =
      evaluate_alone(score_context_length, config, text_of({some_tokens(3), some_tokens(5)}), {}).lengths[0];
  EXPECT_NEAR(result.nll_ci95.value(), 1.959964 * std::sqrt(2 * 2 * 16.0 / 9.0) / 6.0, 1e-6);
}

}  // namespace
}  // namespace dga

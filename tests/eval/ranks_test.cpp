// Evaluations that several ranks share: the results are those of one, to the last bit.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <atomic>
#include <limits>
#include <map>
#include <mutex>
#include <set>

#include "eval/perplexity.h"
#include "eval/report.h"
#include "eval/retrieval.h"
#include "eval/score.h"
#include "evaluate_alone.h"
#include "support/temp_folder.h"
#include "support/thread_communicator.h"
#include "util/error.h"
#include "util/file.h"
#include "util/log.h"

namespace dga {
namespace {

using testing::run_ranks;

/// Log-probabilities whose sum depends on the order that they are added in.
at::Tensor scores(const WindowBatch& batch) {
  const at::Tensor tokens = batch.tokens.slice(1, batch.first_scored).to(at::kDouble);
  const at::Tensor place = at::arange(tokens.size(1), at::kDouble);
  return -(tokens * 3.7 + place * 0.37 + 0.5).sin().abs().add(0.01).pow(-3);
}

EvalText some_text(int32_t documents = 7) {
  EvalText text;
  for (int32_t document = 0; document < documents; ++document) {
    text.sequences.emplace_back();
    for (int32_t i = 0; i < 30 + 17 * document; ++i) text.sequences.back().push_back((i * i + document) % 11);
    text.documents += 1;
    text.tokens += static_cast<int64_t>(text.sequences.back().size());
  }
  return text;
}

/// Documents of different lengths give batches of different shapes in one round, and a last round with fewer.
EvalConfig some_config() {
  EvalConfig config;
  config.context_lengths = {8, 20, 64};
  config.stride = 8;
  config.per_document = true;
  config.batch_tokens = 48;
  config.position_buckets = 4;
  return config;
}

nlohmann::json without_seconds(nlohmann::json json) {
  for (nlohmann::json& length : json.at("results")) length.erase("seconds");
  return json;
}

nlohmann::json evaluate(const WindowScorer& scorer, const EvalConfig& config, const EvalText& text, Communicator& ranks,
                        EvalProgress progress = {}) {
  const std::vector<int32_t> bytes(11, 3);
  return without_seconds(eval_json(evaluate_perplexity(scorer, config, text, bytes, {ranks}, progress)));
}

TEST(EvalRanks, PerplexityIsThatOfOneProcess) {
  EvalConfig stream = some_config();
  stream.per_document = false;
  EvalText joined = some_text();
  for (size_t i = 1; i < joined.sequences.size(); ++i) {
    joined.sequences[0].insert(joined.sequences[0].end(), joined.sequences[i].begin(), joined.sequences[i].end());
  }
  joined.sequences.resize(1);
  for (const auto& [config, text] : {std::pair(some_config(), some_text()), std::pair(stream, joined)}) {
    const nlohmann::json expected = evaluate(scores, config, text, alone());
    for (const int64_t world_size : {2, 3, 4}) {
      run_ranks(world_size, [&, &own_config = config, &own_text = text](Communicator& ranks) {
        EXPECT_EQ(evaluate(scores, own_config, own_text, ranks), expected) << world_size;
      });
    }
  }
}

TEST(EvalRanks, PassesAreSharedOut) {
  std::atomic<int64_t> calls = 0, most = 0;
  const auto counting = [&](std::atomic<int64_t>& own) {
    return [&](const WindowBatch& batch) {
      ++calls;
      ++own;
      return scores(batch);
    };
  };
  std::atomic<int64_t> of_one = 0;
  evaluate(counting(of_one), some_config(), some_text(), alone());
  calls = 0;
  run_ranks(4, [&](Communicator& ranks) {
    std::atomic<int64_t> own = 0;
    evaluate(counting(own), some_config(), some_text(), ranks);
    int64_t seen = most;
    while (own > seen && !most.compare_exchange_weak(seen, own)) {
    }
  });
  EXPECT_EQ(calls, of_one);
  EXPECT_LE(most, of_one / 4 + 3);  // a ragged round a context length
}

TEST(EvalRanks, MoreRanksThanPasses) {
  EvalConfig config = some_config();
  config.context_lengths = {64};
  const nlohmann::json expected = evaluate(scores, config, some_text(1), alone());
  run_ranks(4, [&](Communicator& ranks) { EXPECT_EQ(evaluate(scores, config, some_text(1), ranks), expected); });
}

/// Kills the evaluation at the `stop`-th pass over all ranks.
nlohmann::json stopped(int64_t world_size, int64_t stop, const std::filesystem::path& file) {
  std::atomic<int64_t> calls = 0;
  nlohmann::json result;
  run_ranks(world_size, [&](Communicator& ranks) {
    const WindowScorer dying = [&](const WindowBatch& batch) {
      if (++calls == stop) throw std::runtime_error("killed");
      return scores(batch);
    };
    const nlohmann::json own = evaluate(dying, some_config(), some_text(), ranks, {file, "key", ranks, 0});
    if (ranks.is_first()) result = own;
  });
  return result;
}

TEST(EvalRanks, AStoppedEvaluationGoesOnAtAnyNumberOfRanks) {
  log::set_level(log::Level::warning);
  const nlohmann::json expected = evaluate(scores, some_config(), some_text(), alone());
  for (const auto& [before, after] : {std::pair(2, 1), std::pair(2, 4), std::pair(1, 2), std::pair(4, 3)}) {
    const testing::TempFolder folder;
    EXPECT_ANY_THROW(stopped(before, 9, folder.path() / "e.partial"));
    ASSERT_TRUE(std::filesystem::exists(folder.path() / "e.partial"));
    EXPECT_EQ(stopped(after, 1 << 30, folder.path() / "e.partial"), expected) << before << " to " << after;
  }
}

/// The errors of the ranks, each once, and how many there were.
struct Errors {
  std::mutex mutex;
  std::set<std::string> texts;
  std::set<ExitCode> codes;
  int64_t count = 0;

  template <class Work>
  void collect(Work work) {
    try {
      work();
    } catch (const Error& error) {
      const std::lock_guard lock(mutex);
      texts.insert(error.what());
      codes.insert(error.code());
      ++count;
    }
  }
};

TEST(EvalRanks, ANonFiniteNumberFailsAllAlike) {
  Errors alone_errors, errors;
  const WindowScorer broken = [](const WindowBatch& batch) {
    at::Tensor values = scores(batch).clone();
    if (batch.first_token[0] > 100) values[0][0] = std::numeric_limits<double>::quiet_NaN();
    return values;
  };
  alone_errors.collect([&] { evaluate(broken, some_config(), some_text(), alone()); });
  run_ranks(4,
            [&](Communicator& ranks) { errors.collect([&] { evaluate(broken, some_config(), some_text(), ranks); }); });
  EXPECT_EQ(errors.count, 4);
  EXPECT_EQ(errors.texts, alone_errors.texts);
  EXPECT_EQ(errors.codes, std::set{ExitCode::numerics});
}

TEST(EvalRanks, AFailingPassFailsAllWithItsReason) {
  Errors errors;
  run_ranks(3, [&](Communicator& ranks) {
    const WindowScorer broken = [&](const WindowBatch& batch) {
      if (ranks.rank() == 1) fail(ExitCode::input, "out of memory");
      return scores(batch);
    };
    errors.collect([&] { evaluate(broken, some_config(), some_text(), ranks); });
  });
  EXPECT_EQ(errors.count, 3);
  EXPECT_EQ(errors.texts, std::set<std::string>{"rank 1: out of memory"});
  EXPECT_EQ(errors.codes, std::set{ExitCode::input});
}

std::filesystem::path write_bin(const testing::TempFolder& folder, const std::vector<uint16_t>& tokens) {
  return folder.write("a.u16", {reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(uint16_t)});
}

at::Tensor pair_scores(const WindowBatch& batch) {
  const int64_t length = batch.tokens.size(1);
  return -(batch.tokens.slice(1, 0, length - 1) * 1000 + batch.tokens.slice(1, 1, length)).to(at::kFloat) / 3;
}

TEST(ScoreRanks, TheFileIsThatOfOneProcess) {
  const testing::TempFolder folder;
  std::vector<uint16_t> tokens;
  for (int i = 0; i < 103; ++i) tokens.push_back(static_cast<uint16_t>(i * i % 97));
  const ScoreInput input(write_bin(folder, tokens));
  for (const ScoreOptions& options : {ScoreOptions{10, 25, 97}, ScoreOptions{10, 1000, 97}, ScoreOptions{1, 7, 97}}) {
    score_file(pair_scores, input, options, {alone()}, folder.path() / "one.f32");
    for (const int64_t world_size : {2, 4}) {
      run_ranks(world_size, [&](Communicator& ranks) {
        score_file(pair_scores, input, options, {ranks}, folder.path() / "all.f32");
      });
      EXPECT_EQ(read_file(folder.path() / "all.f32"), read_file(folder.path() / "one.f32")) << world_size;
    }
  }
}

TEST(ScoreRanks, ABadTokenFailsAllAndLeavesNoFile) {
  const testing::TempFolder folder;
  const ScoreInput input(write_bin(folder, {1, 2, 3, 4, 5, 100, 7}));
  Errors errors;
  run_ranks(2, [&](Communicator& ranks) {
    errors.collect([&] { score_file(pair_scores, input, {2, 2, 100}, {ranks}, folder.path() / "out.f32"); });
  });
  EXPECT_EQ(errors.count, 2);
  ASSERT_EQ(errors.texts.size(), 1U);
  EXPECT_NE(errors.texts.begin()->find("token 5 has id 100"), std::string::npos) << *errors.texts.begin();
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(ScoreRanks, AFolderThatCannotBeWrittenFailsAll) {
  const testing::TempFolder folder;
  const ScoreInput input(write_bin(folder, {1, 2, 3}));
  Errors errors;
  run_ranks(2, [&](Communicator& ranks) {
    errors.collect([&] { score_file(pair_scores, input, {2, 2, 100}, {ranks}, folder.path() / "no" / "out.f32"); });
  });
  EXPECT_EQ(errors.count, 2);
  EXPECT_EQ(errors.texts.size(), 1U);
}

TEST(RetrievalRanks, AnswersAreThoseOfOneProcess) {
  const Tokenizer tokenizer(std::filesystem::path(DGA_SOURCE_DIR) / "data/tokenizer.model");
  RetrievalConfig config;
  config.lengths = {150, 200};
  config.samples = 9;
  std::map<std::vector<int32_t>, std::vector<int32_t>> known;  // the answers of every third prompt
  for (const int64_t length : config.lengths) {
    for (int64_t sample = 0; sample < config.samples; sample += 3) {
      const RetrievalPrompt prompt = make_retrieval_prompt(RetrievalTask::passkey, tokenizer, length, sample, config);
      known[prompt.tokens] = prompt.answer;
    }
  }
  const NextTokens model = [&](const at::Tensor& tokens, int64_t first) {
    at::Tensor next = at::zeros({tokens.size(0), tokens.size(1) - first}, at::kLong);
    for (int64_t row = 0; row < tokens.size(0); ++row) {
      const at::Tensor prompt = tokens[row].narrow(0, 0, first + 1).to(at::kInt).contiguous();
      const int32_t* numbers = prompt.data_ptr<int32_t>();
      const auto found = known.find({numbers, numbers + prompt.numel()});
      if (found != known.end()) next[row].copy_(at::tensor(found->second, at::kInt));
    }
    return next;
  };
  const auto ask = [&](Communicator& ranks) {
    EvalProgress progress;
    return retrieval_json(
        RetrievalTask::passkey, config,
        evaluate_retrieval(model, Asking::at_once, RetrievalTask::passkey, tokenizer, config, 400, {ranks}, progress));
  };
  const nlohmann::json expected = ask(alone());
  EXPECT_EQ(expected.at("results").at(0).at("matches"), 3);
  for (const int64_t world_size : {2, 4}) {
    run_ranks(world_size, [&](Communicator& ranks) { EXPECT_EQ(ask(ranks), expected); });
  }
}

}  // namespace
}  // namespace dga

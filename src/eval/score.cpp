#include "eval/score.h"

#include <ATen/ATen.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>

#include "data/encoder.h"
#include "dist/together.h"
#include "eval/rounds.h"
#include "util/error.h"
#include "util/file.h"
#include "util/log.h"
#include "util/signals.h"

namespace dga {
namespace {

static_assert(std::endian::native == std::endian::little, "token bins and scores are little-endian");

/// Removes a file unless it was renamed away: nothing is left behind where scoring fails.
class RemoveOnExit {
 public:
  explicit RemoveOnExit(std::filesystem::path path) : path_(std::move(path)) {}
  RemoveOnExit(const RemoveOnExit&) = delete;
  RemoveOnExit& operator=(const RemoveOnExit&) = delete;
  ~RemoveOnExit() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }

 private:
  std::filesystem::path path_;
};

WindowBatch read_windows(const ScoreInput& input, int64_t vocab_size, int64_t first, int64_t rows, int64_t length) {
  WindowBatch batch;
  batch.tokens = at::empty({rows, length}, at::kLong);
  int64_t* out = batch.tokens.data_ptr<int64_t>();
  for (int64_t i = 0; i < rows * length; ++i) {
    out[i] = input.at(first + i);
    DGA_CHECK_INPUT(out[i] >= 0 && out[i] < vocab_size, input.path().string(), ": token ", first + i, " has id ",
                    out[i], ", but the model's vocabulary has ", vocab_size, " entries");
  }
  for (int64_t row = 0; row < rows; ++row) batch.first_token.push_back(first + row * length);
  return batch;
}

/// Windows of one pass: `rows` of `length` tokens from token `first` on.
struct Pass {
  int64_t first = 0, rows = 0, length = 0;
  int64_t end() const { return first + rows * length; }
};

/// The passes from token `first` on, at most `limit`.
std::vector<Pass> next_passes(int64_t size, const ScoreOptions& options, int64_t first, size_t limit) {
  const int64_t length = options.context_length, rows = std::max<int64_t>(1, options.batch_tokens / length);
  std::vector<Pass> passes;
  for (; first < size && passes.size() < limit; first = passes.back().end()) {
    const int64_t whole = (size - first) / length;
    passes.push_back(whole > 0 ? Pass{first, std::min(rows, whole), length} : Pass{first, 1, size - first});
  }
  return passes;
}

/// One number a token [rows, length]; NaN for the first of each row.
at::Tensor score(const WindowScorer& scorer, const WindowBatch& batch) {
  at::Tensor scores = at::full(batch.tokens.sizes(), std::numeric_limits<float>::quiet_NaN(), at::kFloat);
  const int64_t length = batch.tokens.size(1);
  if (length > 1) scores.slice(1, 1, length).copy_(scorer(batch));
  return scores;
}

/// The file that scores go to: rank 0's, under a temporary name until it is whole.
class ScoreFile {
 public:
  explicit ScoreFile(const std::filesystem::path& output)
      : output_(output), temporary_(str(output.string(), ".tmp.", getpid())), cleanup_(temporary_), file_(temporary_) {}
  void write(const at::Tensor& scores) {
    const at::Tensor numbers = scores.to(at::kFloat).contiguous();
    file_.write(numbers.data_ptr<float>(), numbers.nbytes());
  }
  void finish() {
    file_.close_synced();
    rename_synced(temporary_, output_);
  }

 private:
  const std::filesystem::path output_, temporary_;
  const RemoveOnExit cleanup_;
  OutputFile file_;
};

}  // namespace

ScoreInput::ScoreInput(const std::filesystem::path& bin) : path_(bin) {
  const std::string ending = bin.extension().string();
  DGA_CHECK_INPUT(ending == ".u16" || ending == ".u32", bin.string(), ": unknown ending \"", ending,
                  "\"; token bins end in .u16 or .u32, text in .txt");
  bytes_per_token_ = ending == ".u16" ? 2 : 4;
  file_ = MappedFile(bin);
  const size_t bytes = file_.bytes().size();
  DGA_CHECK_INPUT(bytes > 0, bin.string(), ": the file is empty");
  DGA_CHECK_INPUT(bytes % bytes_per_token_ == 0, bin.string(), ": ", bytes, " bytes are no whole number of ",
                  bytes_per_token_, "-byte tokens");
  size_ = static_cast<int64_t>(bytes) / bytes_per_token_;
}

ScoreInput::ScoreInput(const std::filesystem::path& text, const Tokenizer& tokenizer) : path_(text) {
  const MappedFile file(text);
  const std::string_view bytes(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  Encoder(tokenizer).append(bytes, TextPosition::document_start, text_tokens_);
  size_ = static_cast<int64_t>(text_tokens_.size());
  DGA_CHECK_INPUT(size_ > 0, text.string(), ": the text has no tokens");
}

int64_t ScoreInput::at(int64_t index) const {
  if (bytes_per_token_ == 0) return text_tokens_[index];
  uint32_t token = 0;
  std::memcpy(&token, file_.bytes().data() + index * bytes_per_token_, bytes_per_token_);
  return token;
}

void score_file(const WindowScorer& scorer, const ScoreInput& input, const ScoreOptions& options,
                const EvalRanks& ranks, const std::filesystem::path& output) {
  const int64_t length = options.context_length;
  if (length < 1) fail(ExitCode::usage, "--context must be at least 1 token, got ", length);
  std::optional<ScoreFile> file;
  run_on_first(ranks.ranks, "score/open", [&] { file.emplace(output); });
  PassRounds rounds(ranks, "score");
  for (int64_t first = 0; first < input.size();) {
    const std::vector<Pass> passes = next_passes(input.size(), options, first, rounds.size());
    std::vector<int64_t> counts;
    for (const Pass& pass : passes) counts.push_back(pass.rows * pass.length);
    const std::vector<at::Tensor> scores = rounds.run(counts, [&](size_t i) {
      return score(scorer, read_windows(input, options.vocab_size, passes[i].first, passes[i].rows, passes[i].length));
    });
    for (const at::Tensor& numbers : scores) {
      if (file) file->write(numbers);
    }
    first = passes.back().end();
    if (const int signal = rounds.stop_signal(); signal != 0) {
      log::show_status("");
      fail(stop_code(signal), "stopped by ", stop_name(signal), "; ", output.string(), " is not written");
    }
    log::show_status(str("score: token ", first, " of ", input.size()));
  }
  log::show_status("");
  run_on_first(ranks.ranks, "score/finish", [&] { file->finish(); });
}

}  // namespace dga

#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <variant>
#include <vector>

#include "data/tokenizer.h"
#include "eval/perplexity.h"
#include "util/mapped_file.h"

namespace dga {

/// Tokens to score, one after the other: a mapped flat little-endian bin (.u16, .u32) or a tokenised text (.txt).
class ScoreInput {
 public:
  /// A bin. Throws an input error for an unknown ending, an empty file or a size that is no whole number of tokens.
  explicit ScoreInput(const std::filesystem::path& bin);
  /// A text, tokenised as a whole without BOS and EOS.
  ScoreInput(const std::filesystem::path& text, const Tokenizer& tokenizer);

  int64_t size() const { return size_; }
  /// Token `index` as the file holds it, not yet checked against a vocabulary.
  int64_t at(int64_t index) const;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  MappedFile file_;
  std::vector<int32_t> text_tokens_;
  int bytes_per_token_ = 0;  // 0: text_tokens_
  int64_t size_ = 0;
};

struct ScoreOptions {
  int64_t context_length = 0;  // tokens of a window; the last may be shorter
  int64_t batch_tokens = 16384;
  int64_t vocab_size = 0;
};

/// Writes one float32 a token to `output` (atomically): its log-probability given the tokens before it in its window,
/// NaN for the first of a window. Windows are consecutive and independent. Throws an input error naming the position of
/// a token id beyond the vocabulary. The ranks call it together and share the passes out; rank 0 writes.
void score_file(const WindowScorer& scorer, const ScoreInput& input, const ScoreOptions& options,
                const EvalRanks& ranks, const std::filesystem::path& output);

}  // namespace dga

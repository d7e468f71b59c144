#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "data/batch.h"
#include "data/config.h"
#include "data/tokenizer.h"

namespace dga {

/// A whole document as tokens, without BOS and EOS.
struct TokenizedDocument {
  std::vector<int32_t> tokens;
  int64_t bytes = 0;  // of the text; for token bins the sum of Tokenizer::token_bytes, -1 without a tokenizer
  DocumentRef ref;    // row and start are 0
};

/// The documents of some sources, source by source, files sorted by path, in the order of the file: for evaluation.
/// Weights and upsampling do not apply; min_tokens does. Token shards are used and made as in training.
class DocumentReader {
 public:
  /// `data` gives cache, tokenizer_threads, on_error and max_line_bytes. Documents shorter than `min_tokens` are passed
  /// over without being read. `tokenizer` may be null if all sources are token bins.
  DocumentReader(const std::vector<SourceConfig>& sources, const DataConfig& data,
                 std::shared_ptr<const Tokenizer> tokenizer, int64_t min_tokens = 0);
  ~DocumentReader();

  /// The next document; nothing after the last. Throws what went wrong in the background.
  std::optional<TokenizedDocument> next();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dga

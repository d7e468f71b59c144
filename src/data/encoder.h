#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace dga {

/// Where in its document a piece of text stands.
enum class TextPosition { document_start, after_cut };

/// Encodes text word by word with a memory of the words seen; each thread has its own. The tokens are exactly those of
/// sentencepiece for the whole document. Cutting is exact for a BPE model without normalisation in whose vocabulary no
/// piece has a space after another character: no merge then crosses a place where a space follows a non-space, and
/// sentencepiece gives a word the leading space that was cut off back as its dummy prefix. Where a model is not of that
/// kind, documents are encoded whole.
class Encoder {
 public:
  explicit Encoder(const Tokenizer& tokenizer);

  /// Appends the tokens of a document, or of a piece of it between two cuts, to `out`.
  void append(std::string_view text, TextPosition position, std::vector<int32_t>& out);

 private:
  // One cache line; a word that does not fit is encoded anew each time.
  struct alignas(64) CachedWord {
    static constexpr size_t kMaxBytes = 22;
    static constexpr size_t kMaxTokens = 10;
    std::array<int32_t, kMaxTokens> ids;
    std::array<char, kMaxBytes> text;
    uint8_t bytes;
    uint8_t tokens;
  };
  static constexpr size_t kCachedWords = size_t{1} << 15;

  void append_word(std::string_view word, std::vector<int32_t>& out);
  void append_line_start(std::string_view word, std::vector<int32_t>& out);
  void append_directly(std::string_view text, std::vector<int32_t>& out);

  const Tokenizer& tokenizer_;
  std::vector<CachedWord> cache_;
  std::vector<int> scratch_;
};

}  // namespace dga

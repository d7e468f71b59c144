#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace dga {

/// Turns tokens into text as they come. Text is held back while its last bytes are an unfinished UTF-8 character, and
/// spaces come out as decoding the whole sequence at once would put them.
class TextStream {
 public:
  /// `context`: tokens before the stream; not returned, but they decide about a leading space.
  TextStream(const Tokenizer& tokenizer, std::vector<int32_t> context);

  /// The text that `token` completes; perhaps empty.
  std::string push(int32_t token);
  /// What is still held back.
  std::string finish();

 private:
  std::string take(const std::string& text, size_t end);

  const Tokenizer& tokenizer_;
  std::vector<int32_t> tokens_;  // the last few tokens, decoded together
  size_t emitted_bytes_ = 0;     // of their text
};

}  // namespace dga

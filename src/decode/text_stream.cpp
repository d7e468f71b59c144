#include "decode/text_stream.h"

#include <algorithm>
#include <string_view>

namespace dga {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD: what an unfinished character decodes to
constexpr int kMaxPending = 3;                             // bytes that a UTF-8 character can wait with
constexpr size_t kWindow = 16;                             // tokens kept; enough to cover pending bytes

/// Where the settled part of `text` ends: before the replacement characters at its end, of which up to three may still
/// become a character.
size_t settled_end(std::string_view text) {
  size_t end = text.size();
  for (int i = 0; i < kMaxPending && text.substr(0, end).ends_with(kReplacement); ++i) end -= kReplacement.size();
  return end;
}

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer, std::vector<int32_t> context)
    : tokenizer_(tokenizer), tokens_(std::move(context)) {
  if (tokens_.size() > kWindow) tokens_.erase(tokens_.begin(), tokens_.end() - kWindow);
  emitted_bytes_ = tokenizer_.decode(tokens_).size();
}

std::string TextStream::push(int32_t token) {
  tokens_.push_back(token);
  const std::string text = tokenizer_.decode(tokens_);
  const size_t settled = settled_end(text);
  std::string fresh = take(text, settled);
  if (settled == text.size() && tokens_.size() >= 2 * kWindow) {
    tokens_.erase(tokens_.begin(), tokens_.end() - kWindow);
    emitted_bytes_ = tokenizer_.decode(tokens_).size();
  }
  return fresh;
}

std::string TextStream::finish() {
  const std::string text = tokenizer_.decode(tokens_);
  return take(text, text.size());
}

std::string TextStream::take(const std::string& text, size_t end) {
  if (end <= emitted_bytes_) return {};
  std::string fresh = text.substr(emitted_bytes_, end - emitted_bytes_);
  emitted_bytes_ = end;
  return fresh;
}

}  // namespace dga

#include "data/encoder.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "data/cuts.h"
#include "util/error.h"

namespace dga {

Encoder::Encoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {
  if (tokenizer.cuts_->exact) cache_.resize(kCachedWords);
}

void Encoder::append_directly(std::string_view text, std::vector<int32_t>& out) {
  const auto status = tokenizer_.processor_->Encode(text, &scratch_);
  DGA_CHECK(status.ok(), "sentencepiece cannot encode ", text.size(), " bytes: ", status.ToString());
  out.insert(out.end(), scratch_.begin(), scratch_.end());
}

void Encoder::append_word(std::string_view word, std::vector<int32_t>& out) {
  if (word.size() > CachedWord::kMaxBytes || word.empty()) return append_directly(word, out);
  CachedWord& slot = cache_[std::hash<std::string_view>{}(word) % kCachedWords];
  if (slot.bytes != word.size() || std::memcmp(slot.text.data(), word.data(), word.size()) != 0) {
    const size_t before = out.size();
    append_directly(word, out);
    const size_t count = out.size() - before;
    if (count > CachedWord::kMaxTokens) return;
    std::memcpy(slot.text.data(), word.data(), word.size());
    slot.bytes = static_cast<uint8_t>(word.size());
    std::copy_n(out.begin() + static_cast<std::ptrdiff_t>(before), count, slot.ids.begin());
    slot.tokens = static_cast<uint8_t>(count);
    return;
  }
  out.insert(out.end(), slot.ids.begin(), slot.ids.begin() + slot.tokens);
}

void Encoder::append_line_start(std::string_view word, std::vector<int32_t>& out) {
  // The dummy prefix is a token of its own before a newline.
  const size_t before = out.size();
  append_word(word, out);
  out.erase(out.begin() + static_cast<std::ptrdiff_t>(before));
}

void Encoder::append(std::string_view text, TextPosition position, std::vector<int32_t>& out) {
  const Tokenizer::Cuts& cuts = *tokenizer_.cuts_;
  if (!cuts.exact) return append_directly(text, out);
  bool after_cut = position == TextPosition::after_cut;
  for (size_t begin = 0, end = 0; begin < text.size(); begin = end, after_cut = true) {
    end = tokenizer_.next_cut(text, begin + 1);
    std::string_view word = text.substr(begin, end - begin);
    if (after_cut && cuts.add_dummy_prefix) {
      if (word.front() == ' ') {
        word.remove_prefix(1);
      } else {
        append_line_start(word, out);
        continue;
      }
    }
    append_word(word, out);
  }
}

}  // namespace dga

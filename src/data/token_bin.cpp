#include "data/token_bin.h"

#include <algorithm>

#include "data/shard_format.h"
#include "util/error.h"

namespace dga {
namespace {

template <class Token>
int64_t find_token(const std::byte* bytes, int64_t from, int64_t tokens, int64_t wanted) {
  const auto* begin = reinterpret_cast<const Token*>(bytes);
  return std::find(begin + from, begin + tokens, static_cast<Token>(wanted)) - begin;
}

}  // namespace

TokenBin::TokenBin(const std::filesystem::path& path, int token_bytes, std::optional<int64_t> separator)
    : file_(path),
      token_bytes_(token_bytes),
      tokens_(static_cast<int64_t>(file_.bytes().size()) / token_bytes),
      separator_(separator) {
  DGA_CHECK_INPUT(file_.bytes().size() % static_cast<size_t>(token_bytes) == 0, path.string(), ": ",
                  file_.bytes().size(), " bytes are no whole number of u", 8 * token_bytes, " tokens");
  DGA_CHECK_INPUT(!separator || token_bytes == 4 || *separator <= 0xffff, path.string(), ": separator ",
                  separator.value_or(0), " does not fit into u16 tokens");
}

int64_t TokenBin::find_separator(int64_t from) const {
  if (!separator_) return tokens_;
  return token_bytes_ == 2 ? find_token<uint16_t>(file_.bytes().data(), from, tokens_, *separator_)
                           : find_token<uint32_t>(file_.bytes().data(), from, tokens_, *separator_);
}

std::optional<TokenDocument> TokenBin::document(int64_t index) {
  const std::lock_guard lock(mutex_);
  while (index >= static_cast<int64_t>(documents_.size())) {
    if (scanned_ >= tokens_) return std::nullopt;
    const int64_t end = find_separator(scanned_);
    if (end > scanned_) {
      documents_.push_back({scanned_, end - scanned_, static_cast<int64_t>(documents_.size()), -1});
    }
    scanned_ = end + 1;
  }
  return documents_[static_cast<size_t>(index)];
}

void TokenBin::read(int64_t offset, std::span<int32_t> out) const {
  DGA_CHECK(offset >= 0 && offset + static_cast<int64_t>(out.size()) <= tokens_, "tokens ", offset, " to ",
            offset + static_cast<int64_t>(out.size()), " of a bin with ", tokens_);
  widen_tokens(file_.bytes().data() + offset * token_bytes_, token_bytes_, out);
}

}  // namespace dga

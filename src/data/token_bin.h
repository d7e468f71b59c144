#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "data/token_file.h"
#include "util/mapped_file.h"

namespace dga {

/// A flat little-endian token bin, mapped. Documents end at the separator, which belongs to none of them; empty ones
/// are passed over; without a separator the file is one document. Documents are looked for as they are asked for, so
/// nothing is scanned ahead.
class TokenBin : public TokenFile {
 public:
  /// `token_bytes` is 2 or 4. Throws an input error for a size that is no whole number of tokens.
  TokenBin(const std::filesystem::path& path, int token_bytes, std::optional<int64_t> separator);

  std::optional<TokenDocument> document(int64_t index) override;
  void read(int64_t offset, std::span<int32_t> out) const override;

 private:
  int64_t find_separator(int64_t from) const;

  MappedFile file_;
  int token_bytes_;
  int64_t tokens_;
  std::optional<int64_t> separator_;
  std::mutex mutex_;
  std::vector<TokenDocument> documents_;
  int64_t scanned_ = 0;  // tokens before this place are in documents_
};

}  // namespace dga

#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <optional>
#include <span>

namespace dga {

/// Where a document lies in a token file.
struct TokenDocument {
  int64_t offset = 0;  // its first token
  int64_t tokens = 0;  // without BOS and EOS
  int64_t line = 0;    // line of the text file from 1, or number of the document in a token bin from 0
  int64_t bytes = -1;  // of its text; -1: not known (token bins)

  bool operator==(const TokenDocument&) const = default;
};

/// Thrown by waits inside the data path when it is being shut down.
class Stopped : public std::exception {
 public:
  const char* what() const noexcept override { return "the data path is being shut down"; }
};

/// The documents of one source file as tokens. Safe to use from several threads.
class TokenFile {
 public:
  virtual ~TokenFile() = default;
  /// Document `index` from 0; nothing after the last. Waits where the file is still being tokenised; throws what
  /// stopped that, or Stopped.
  virtual std::optional<TokenDocument> document(int64_t index) = 0;
  /// Copies out.size() tokens from `offset` on; they must belong to documents that document() has returned.
  virtual void read(int64_t offset, std::span<int32_t> out) const = 0;
};

}  // namespace dga

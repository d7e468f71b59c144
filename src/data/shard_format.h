#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "util/file.h"

namespace dga {

constexpr char kShardMagic[8] = {'D', 'G', 'A', 'T', 'O', 'K', '1', '\n'};

struct ShardHeader {
  char magic[8];
  int32_t token_bytes;
  int32_t reserved;
  int64_t documents;
  int64_t tokens;
  int64_t index_offset;
  int64_t json_offset;
  int64_t json_bytes;
  int64_t reserved_end;
};
static_assert(sizeof(ShardHeader) == 64);

struct ShardIndexEntry {
  int64_t offset;  // first, in tokens
  int64_t line;
  int64_t bytes;
};
constexpr int64_t kIndexEntryBytes = sizeof(ShardIndexEntry);
static_assert(kIndexEntryBytes == 24);

/// The index begins at the next multiple of 8 after the tokens.
constexpr int64_t index_offset(int64_t tokens, int64_t token_bytes) {
  return (static_cast<int64_t>(sizeof(ShardHeader)) + tokens * token_bytes + 7) / 8 * 8;
}

/// Little-endian tokens of 2 or 4 bytes to int32. A u32 beyond int32 becomes negative, which no vocabulary holds.
inline void widen_tokens(const std::byte* from, int token_bytes, std::span<int32_t> out) {
  if (token_bytes == 4) {
    if (!out.empty()) std::memcpy(out.data(), from, out.size() * sizeof(int32_t));
    return;
  }
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t token = 0;
    std::memcpy(&token, from + i * sizeof token, sizeof token);
    out[i] = token;
  }
}

/// Tokens from `offset` on of a shard, whole or growing. False as read_at() is, with its errno.
inline bool read_tokens(int descriptor, int token_bytes, int64_t offset, std::span<int32_t> out) {
  std::vector<std::byte> bytes(out.size() * static_cast<size_t>(token_bytes));
  if (!read_at(descriptor, bytes, static_cast<int64_t>(sizeof(ShardHeader)) + offset * token_bytes)) return false;
  widen_tokens(bytes.data(), token_bytes, out);
  return true;
}

}  // namespace dga

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

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

}  // namespace dga

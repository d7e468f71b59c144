#include "data/token_shard.h"

#include <sys/stat.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "data/shard_format.h"
#include "util/error.h"
#include "util/file.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

constexpr uintmax_t kSmallBytes = 1 << 20;

bool read_problems(std::string_view text, ShardProblems& problems) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("problems") || !json.contains("first")) return false;
  for (size_t kind = 0; kind < kProblemKinds; ++kind) {
    problems.counts[kind] = json["problems"].value(name_of(static_cast<ProblemKind>(kind)), int64_t{0});
  }
  problems.first.line = json["first"].value("line", int64_t{0});
  problems.first.message = json["first"].value("message", "");
  return true;
}

}  // namespace

std::shared_ptr<TokenShard> TokenShard::open(const fs::path& path) {
  std::error_code error;
  const uintmax_t size = fs::file_size(path, error);
  if (error) return nullptr;
  auto shard = std::make_shared<TokenShard>();
  std::span<const std::byte> bytes;
  if (size < kSmallBytes) {
    const std::string content = read_file(path);
    const auto* begin = reinterpret_cast<const std::byte*>(content.data());
    shard->small_.assign(begin, begin + content.size());
    bytes = shard->small_;
  } else {
    shard->file_ = MappedFile(path);
    bytes = shard->file_.bytes();
  }
  return shard->parse(bytes) ? shard : nullptr;
}

bool TokenShard::parse(std::span<const std::byte> bytes) {
  ShardHeader header;
  if (bytes.size() < sizeof header) return false;
  std::memcpy(&header, bytes.data(), sizeof header);
  const auto size = static_cast<int64_t>(bytes.size());
  const bool whole = std::memcmp(header.magic, kShardMagic, sizeof header.magic) == 0 &&
                     (header.token_bytes == 2 || header.token_bytes == 4) && header.tokens >= 0 &&
                     header.tokens <= size && header.documents >= 0 && header.documents <= size &&
                     header.index_offset == index_offset(header.tokens, header.token_bytes) &&
                     header.json_offset == header.index_offset + header.documents * kIndexEntryBytes &&
                     header.json_bytes >= 0 && header.json_offset + header.json_bytes == size;
  if (!whole) return false;
  token_bytes_ = header.token_bytes;
  tokens_ = header.tokens;
  documents_ = header.documents;
  token_data_ = bytes.data() + sizeof header;
  index_data_ = bytes.data() + header.index_offset;
  const auto* json = reinterpret_cast<const char*>(bytes.data() + header.json_offset);
  return read_problems({json, static_cast<size_t>(header.json_bytes)}, problems_);
}

std::optional<TokenDocument> TokenShard::document(int64_t index) {
  if (index >= documents_) return std::nullopt;
  ShardIndexEntry entry;
  std::memcpy(&entry, index_data_ + index * kIndexEntryBytes, sizeof entry);
  int64_t end = tokens_;
  if (index + 1 < documents_) std::memcpy(&end, index_data_ + (index + 1) * kIndexEntryBytes, sizeof end);
  return TokenDocument{entry.offset, end - entry.offset, entry.line, entry.bytes};
}

void TokenShard::read(int64_t offset, std::span<int32_t> out) const {
  DGA_CHECK(offset >= 0 && offset + static_cast<int64_t>(out.size()) <= tokens_, "tokens ", offset, " to ",
            offset + static_cast<int64_t>(out.size()), " of a shard with ", tokens_);
  widen_tokens(token_data_ + offset * token_bytes_, token_bytes_, out);
}

}  // namespace dga

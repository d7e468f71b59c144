#include "data/shard_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "data/shard_format.h"
#include "util/error.h"
#include "util/file.h"
#include "util/hash.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

struct Record {
  TokenDocument document;
  uint64_t checksum;
};
static_assert(sizeof(Record) == 40);

constexpr int64_t kStretchTokens = int64_t{1} << 16;

/// Of the record and its document's tokens, which are read a stretch at a time.
uint64_t checksum_of(const TokenDocument& document, const ReadTokens& read) {
  uint64_t sum = hash_bits(std::as_bytes(std::span(&document, 1)));
  std::vector<int32_t> tokens(static_cast<size_t>(std::min(document.tokens, kStretchTokens)));
  for (int64_t done = 0; done < document.tokens; done += kStretchTokens) {
    const std::span stretch =
        std::span(tokens).first(static_cast<size_t>(std::min(document.tokens - done, kStretchTokens)));
    read(document.offset + done, stretch);
    sum = sum * 0x9E3779B97F4A7C15 + hash_bits(std::as_bytes(stretch));
  }
  return sum;
}

}  // namespace

fs::path shard_log_path(const fs::path& shard) { return shard.string() + ".documents"; }
fs::path shard_temporary_path(const fs::path& shard) { return shard.string() + ".tmp"; }

ShardLog::ShardLog(const fs::path& shard) : path_(shard_log_path(shard)) {
  unlink(path_.c_str());  // of a process that was killed; followers may have it open
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  DGA_CHECK(descriptor_ >= 0, "cannot write ", path_.string(), ": ", std::strerror(errno));
}

ShardLog::~ShardLog() {
  unlink(path_.c_str());
  close(descriptor_);
}

void ShardLog::add(const TokenDocument& document, const ReadTokens& read) {
  const Record record{document, checksum_of(document, read)};
  const auto bytes = std::as_bytes(std::span(&record, 1));
  pending_.insert(pending_.end(), bytes.begin(), bytes.end());
}

void ShardLog::flush() {
  size_t done = 0;
  while (done < pending_.size()) {
    const ssize_t count = ::write(descriptor_, pending_.data() + done, pending_.size() - done);
    if (count < 0 && errno == EINTR) continue;
    DGA_CHECK(count > 0, "cannot write ", path_.string(), ": ", std::strerror(errno));
    done += static_cast<size_t>(count);
  }
  pending_.clear();
}

std::unique_ptr<ShardFollower> ShardFollower::open(const fs::path& shard, int token_bytes) {
  const fs::path temporary = shard_temporary_path(shard);
  const int tokens = ::open(temporary.c_str(), O_RDONLY | O_CLOEXEC);
  const int log = ::open(shard_log_path(shard).c_str(), O_RDONLY | O_CLOEXEC);
  std::unique_ptr<ShardFollower> follower(new ShardFollower(temporary, tokens, log, token_bytes));
  return tokens >= 0 && log >= 0 ? std::move(follower) : nullptr;
}

ShardFollower::ShardFollower(fs::path temporary, int tokens, int log, int token_bytes)
    : temporary_(std::move(temporary)), tokens_descriptor_(tokens), log_descriptor_(log), token_bytes_(token_bytes) {}

ShardFollower::~ShardFollower() {
  if (tokens_descriptor_ >= 0) close(tokens_descriptor_);
  if (log_descriptor_ >= 0) close(log_descriptor_);
}

std::vector<TokenDocument> ShardFollower::next() {
  std::vector<TokenDocument> documents;
  if (!is_file_of(temporary_, tokens_descriptor_)) return documents;
  Record record;
  while (read_at(log_descriptor_, std::as_writable_bytes(std::span(&record, 1)), log_bytes_)) {
    bool there = true;
    const uint64_t found = checksum_of(record.document, [&](int64_t offset, std::span<int32_t> out) {
      there = there && read_tokens(tokens_descriptor_, token_bytes_, offset, out);
    });
    if (!there || found != record.checksum) break;
    documents.push_back(record.document);
    log_bytes_ += sizeof record;
  }
  return documents;
}

void ShardFollower::read(int64_t offset, std::span<int32_t> out) const {
  DGA_CHECK(read_tokens(tokens_descriptor_, token_bytes_, offset, out), "cannot read tokens ", offset, " to ",
            offset + static_cast<int64_t>(out.size()), " of ", temporary_.string(), ", which another process wrote");
}

}  // namespace dga

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "data/shard_format.h"
#include "data/token_shard.h"
#include "util/error.h"
#include "util/file.h"
#include "util/log.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

constexpr const char* kTemporaryEnding = ".tmp";

std::string system_error() { return std::strerror(errno); }

/// Whether the path still names the open file.
bool names(const fs::path& path, int descriptor) {
  struct stat by_path {};
  struct stat by_descriptor {};
  return stat(path.c_str(), &by_path) == 0 && fstat(descriptor, &by_descriptor) == 0 &&
         by_path.st_ino == by_descriptor.st_ino && by_path.st_dev == by_descriptor.st_dev;
}

/// Creates and locks a temporary beside `path`. Between the two calls another process may take it for a stale one and
/// remove it; then the next name is tried.
std::pair<fs::path, int> create_locked(const fs::path& path) {
  static std::atomic<int64_t> counter{0};
  while (true) {
    const fs::path temporary = str(path.string(), ".", getpid(), ".", counter++, kTemporaryEnding);
    const int descriptor = open(temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (descriptor < 0 && errno == EEXIST) continue;
    DGA_CHECK(descriptor >= 0, "cannot write ", temporary.string(), ": ", system_error());
    // A file system without locks has no clean-up either, but works.
    const bool locked = flock(descriptor, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
    if (locked && names(temporary, descriptor)) return {temporary, descriptor};
    close(descriptor);
  }
}

}  // namespace

ShardWriter::ShardWriter(const fs::path& path, int token_bytes) : path_(path), token_bytes_(token_bytes) {
  fs::create_directories(path.parent_path());
  std::tie(temporary_, descriptor_) = create_locked(path);
  const ShardHeader empty{};
  write_at_end(&empty, sizeof empty);
}

ShardWriter::~ShardWriter() {
  if (!temporary_.empty()) unlink(temporary_.c_str());
  if (descriptor_ >= 0) close(descriptor_);
}

void ShardWriter::write_at_end(const void* bytes, size_t size_bytes) {
  const auto* next = static_cast<const std::byte*>(bytes);
  while (size_bytes > 0) {
    const ssize_t written = pwrite(descriptor_, next, size_bytes, file_bytes_);
    if (written < 0 && errno == EINTR) continue;
    DGA_CHECK(written > 0, "cannot write ", temporary_.string(), ": ", system_error());
    next += written;
    size_bytes -= static_cast<size_t>(written);
    file_bytes_ += written;
  }
}

void ShardWriter::append(std::span<const int32_t> tokens) {
  if (token_bytes_ == 4) {
    write_at_end(tokens.data(), tokens.size_bytes());
  } else {
    scratch_.resize(tokens.size() * 2);
    for (size_t i = 0; i < tokens.size(); ++i) {
      const auto token = static_cast<uint16_t>(tokens[i]);
      std::memcpy(scratch_.data() + 2 * i, &token, 2);
    }
    write_at_end(scratch_.data(), scratch_.size());
  }
  tokens_ += static_cast<int64_t>(tokens.size());
}

void ShardWriter::read(int64_t offset, std::span<int32_t> out) const {
  DGA_CHECK(offset >= 0 && offset + static_cast<int64_t>(out.size()) <= tokens_, "tokens ", offset, " to ",
            offset + static_cast<int64_t>(out.size()), " of a shard with ", tokens_);
  std::vector<std::byte> bytes(out.size() * static_cast<size_t>(token_bytes_));
  size_t done = 0;
  while (done < bytes.size()) {
    const int64_t at = static_cast<int64_t>(sizeof(ShardHeader) + done) + offset * token_bytes_;
    const ssize_t count = pread(descriptor_, bytes.data() + done, bytes.size() - done, at);
    if (count < 0 && errno == EINTR) continue;
    DGA_CHECK(count > 0, "cannot read ", temporary_.string(), ": ", count == 0 ? "it was cut short" : system_error());
    done += static_cast<size_t>(count);
  }
  widen_tokens(bytes.data(), token_bytes_, out);
}

void ShardWriter::finish(const std::vector<TokenDocument>& documents, const ShardProblems& problems) {
  ShardHeader header{};
  std::memcpy(header.magic, kShardMagic, sizeof header.magic);
  header.token_bytes = token_bytes_;
  header.documents = static_cast<int64_t>(documents.size());
  header.tokens = tokens_;
  header.index_offset = index_offset(tokens_, token_bytes_);
  const int64_t padding = 0;
  write_at_end(&padding, static_cast<size_t>(header.index_offset - file_bytes_));
  std::vector<ShardIndexEntry> index;
  index.reserve(documents.size());
  for (const TokenDocument& document : documents) index.push_back({document.offset, document.line, document.bytes});
  write_at_end(index.data(), index.size() * sizeof(ShardIndexEntry));

  nlohmann::json json = {{"problems", nlohmann::json::object()}, {"first", nlohmann::json::object()}};
  for (size_t kind = 0; kind < kProblemKinds; ++kind) {
    if (problems.counts[kind] > 0) json["problems"][name_of(static_cast<ProblemKind>(kind))] = problems.counts[kind];
  }
  if (total(problems.counts) > 0) json["first"] = {{"line", problems.first.line}, {"message", problems.first.message}};
  const std::string text = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  header.json_offset = file_bytes_;
  header.json_bytes = static_cast<int64_t>(text.size());
  write_at_end(text.data(), text.size());

  const ssize_t written = pwrite(descriptor_, &header, sizeof header, 0);
  DGA_CHECK(written == sizeof header && fsync(descriptor_) == 0, "cannot write ", temporary_.string(), ": ",
            system_error());
  rename_synced(temporary_, path_);
  temporary_.clear();
}

void remove_stale_temporaries(const fs::path& folder) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() != kTemporaryEnding) continue;
    const int descriptor = open(entry.path().c_str(), O_RDWR | O_CLOEXEC);
    if (descriptor < 0) continue;
    if (flock(descriptor, LOCK_EX | LOCK_NB) == 0 && names(entry.path(), descriptor) &&
        unlink(entry.path().c_str()) == 0) {
      log::info("removed ", entry.path().string(), ", left behind by a process that was killed");
    }
    close(descriptor);
  }
}

}  // namespace dga

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "data/shard_format.h"
#include "data/shard_log.h"
#include "data/token_shard.h"
#include "util/error.h"
#include "util/file.h"
#include "util/log.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

constexpr const char* kTemporaryEnding = ".tmp";

std::string system_error() { return std::strerror(errno); }

struct Claim {
  fs::path temporary;
  int descriptor = -1;
};

/// A temporary of a name that no process has, for file systems without locks. It is not cleaned up after a kill.
Claim create_own(const fs::path& path) {
  static std::atomic<int64_t> counter{0};
  while (true) {
    const fs::path temporary = str(path.string(), ".", getpid(), ".", counter++, ".unlocked");
    const int descriptor = open(temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (descriptor < 0 && errno == EEXIST) continue;
    DGA_CHECK(descriptor >= 0, "cannot write ", temporary.string(), ": ", system_error());
    return {temporary, descriptor};
  }
}

/// The temporary beside `path`, locked and empty; nothing where another process has it. One that a killed process left
/// is removed, not emptied: others may still read what they know of it.
std::optional<Claim> claim(const fs::path& path) {
  const fs::path temporary = shard_temporary_path(path);
  while (true) {
    const int descriptor = open(temporary.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    DGA_CHECK(descriptor >= 0, "cannot write ", temporary.string(), ": ", system_error());
    const bool locked = flock(descriptor, LOCK_EX | LOCK_NB) == 0;
    const bool busy = !locked && errno == EWOULDBLOCK;
    // Between opening and locking it may have been removed, or become the shard; then it is opened again.
    const bool named = locked && is_file_of(temporary, descriptor);
    if (named && lseek(descriptor, 0, SEEK_END) == 0) return Claim{temporary, descriptor};
    if (named) unlink(temporary.c_str());
    close(descriptor);
    if (busy) return std::nullopt;
    if (!locked) return create_own(path);
  }
}

}  // namespace

std::unique_ptr<ShardWriter> ShardWriter::begin(const fs::path& path, int token_bytes) {
  fs::create_directories(path.parent_path());
  std::optional<Claim> claimed = claim(path);
  if (!claimed) return nullptr;
  std::unique_ptr<ShardWriter> writer(
      new ShardWriter(path, std::move(claimed->temporary), claimed->descriptor, token_bytes));
  const ShardHeader empty{};
  writer->write_at_end(&empty, sizeof empty);
  if (writer->temporary_ == shard_temporary_path(path)) writer->log_ = std::make_unique<ShardLog>(path);
  return writer;
}

ShardWriter::ShardWriter(fs::path path, fs::path temporary, int descriptor, int token_bytes)
    : path_(std::move(path)), temporary_(std::move(temporary)), descriptor_(descriptor), token_bytes_(token_bytes) {}

ShardWriter::~ShardWriter() {
  log_.reset();  // by name, so while no other writer can begin
  if (!temporary_.empty() && is_file_of(temporary_, descriptor_)) unlink(temporary_.c_str());
  close(descriptor_);
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

void ShardWriter::tell(const TokenDocument& document) {
  if (log_) log_->add(document, [this](int64_t offset, std::span<int32_t> out) { read(offset, out); });
}

void ShardWriter::flush_told() {
  if (log_) log_->flush();
}

void ShardWriter::read(int64_t offset, std::span<int32_t> out) const {
  DGA_CHECK(offset >= 0 && offset + static_cast<int64_t>(out.size()) <= tokens_, "tokens ", offset, " to ",
            offset + static_cast<int64_t>(out.size()), " of a shard with ", tokens_);
  DGA_CHECK(read_tokens(descriptor_, token_bytes_, offset, out), "cannot read ", temporary_.string(), ": ",
            errno == 0 ? "it was cut short" : system_error());
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
  log_.reset();  // as in the destructor
  DGA_CHECK(is_file_of(temporary_, descriptor_), temporary_.string(), " was replaced by another host: the file system ",
            "of data.cache does not carry locks (flock) between hosts; give each host a data.cache of its own");
  rename_synced(temporary_, path_);
  temporary_.clear();
}

void remove_stale_temporaries(const fs::path& folder) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() != kTemporaryEnding) continue;
    const int descriptor = open(entry.path().c_str(), O_RDWR | O_CLOEXEC);
    if (descriptor < 0) continue;
    if (flock(descriptor, LOCK_EX | LOCK_NB) == 0 && is_file_of(entry.path(), descriptor)) {
      unlink(shard_log_path(fs::path(entry.path()).replace_extension()).c_str());
      unlink(entry.path().c_str());
      log::info("removed ", entry.path().string(), ", left behind by a process that was killed");
    }
    close(descriptor);
  }
}

}  // namespace dga

#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "data/token_file.h"

namespace dga {

/// The file beside a growing shard in which its writer tells other processes of the documents that it has written. A
/// record has a checksum of the document's tokens: on a network file system the record may be seen before them.
std::filesystem::path shard_log_path(const std::filesystem::path& shard);

/// The temporary file of a growing shard.
std::filesystem::path shard_temporary_path(const std::filesystem::path& shard);

using ReadTokens = std::function<void(int64_t offset, std::span<int32_t> out)>;

/// The writer's end. Made anew; removed with the object.
class ShardLog {
 public:
  explicit ShardLog(const std::filesystem::path& shard);
  ~ShardLog();
  ShardLog(const ShardLog&) = delete;
  ShardLog& operator=(const ShardLog&) = delete;

  /// A document, with what reads its tokens out of the shard's file; told with the next flush().
  void add(const TokenDocument& document, const ReadTokens& read);
  void flush();

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::vector<std::byte> pending_;
};

/// A shard that another process is writing, as far as it is written.
class ShardFollower {
 public:
  /// Nothing where nobody writes it.
  static std::unique_ptr<ShardFollower> open(const std::filesystem::path& shard, int token_bytes);
  ~ShardFollower();
  ShardFollower(const ShardFollower&) = delete;
  ShardFollower& operator=(const ShardFollower&) = delete;

  /// The documents that came since the last call. None any more once the writer is done or another has begun again.
  std::vector<TokenDocument> next();
  /// Tokens of those documents; also when the writer is gone.
  void read(int64_t offset, std::span<int32_t> out) const;

 private:
  ShardFollower(std::filesystem::path temporary, int tokens, int log, int token_bytes);

  std::filesystem::path temporary_;
  int tokens_descriptor_;
  int log_descriptor_;
  int token_bytes_;
  int64_t log_bytes_ = 0;  // read so far
};

}  // namespace dga

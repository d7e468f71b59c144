#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/problems.h"
#include "data/shard_log.h"
#include "data/token_file.h"
#include "util/mapped_file.h"

namespace dga {

/// What tokenising a file left out; kept in its shard so that later runs can say it or refuse it.
struct ShardProblems {
  ProblemCounts counts{};
  Problem first{};
};

/// A finished token shard: tokens of all documents of one source file, and an index of them.
/// Format (little-endian): a 64-byte header (see token_shard.cpp), the tokens as u16 or u32, padding to 8 bytes, per
/// document {int64 offset, line, bytes}, and a JSON text with what was left out.
class TokenShard : public TokenFile {
 public:
  /// Nothing where there is no such file or it is not whole.
  static std::shared_ptr<TokenShard> open(const std::filesystem::path& path);

  std::optional<TokenDocument> document(int64_t index) override;
  void read(int64_t offset, std::span<int32_t> out) const override;
  int64_t documents() const { return documents_; }
  int64_t tokens() const { return tokens_; }
  const ShardProblems& problems() const { return problems_; }

 private:
  bool parse(std::span<const std::byte> bytes);

  MappedFile file_;
  std::vector<std::byte> small_;  // a small shard is read, so that a window of many does not use up the mappings
  const std::byte* token_data_ = nullptr;
  const std::byte* index_data_ = nullptr;
  int64_t documents_ = 0;
  int64_t tokens_ = 0;
  int token_bytes_ = 0;
  ShardProblems problems_;
};

/// A shard while it is written: under a temporary name that is locked, so that only one process writes it, and one left
/// behind by a killed process can be told from one in use. Where the file system has no locks, each process writes its
/// own.
class ShardWriter {
 public:
  /// Creates the folder and the temporary file; nothing while somebody else is writing the shard. `token_bytes` is 2 or
  /// 4.
  static std::unique_ptr<ShardWriter> begin(const std::filesystem::path& path, int token_bytes);
  /// Removes the temporary file if finish() was not reached.
  ~ShardWriter();
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  void append(std::span<const int32_t> tokens);
  /// A document whose tokens were appended; other processes that need the shard learn of it with flush_told().
  void tell(const TokenDocument& document);
  void flush_told();
  int64_t tokens() const { return tokens_; }
  /// Reads back what was appended.
  void read(int64_t offset, std::span<int32_t> out) const;
  /// Writes index and header, syncs, and gives the file its name. Throws where another host has replaced the temporary
  /// file, which it can where locks do not reach it.
  void finish(const std::vector<TokenDocument>& documents, const ShardProblems& problems);

 private:
  ShardWriter(std::filesystem::path path, std::filesystem::path temporary, int descriptor, int token_bytes);
  void write_at_end(const void* bytes, size_t size_bytes);

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_;
  int token_bytes_;
  int64_t tokens_ = 0;
  int64_t file_bytes_ = 0;
  std::vector<std::byte> scratch_;
  std::unique_ptr<ShardLog> log_;  // null on a file system without locks
};

/// Removes the temporary files in `folder` whose writers are gone.
void remove_stale_temporaries(const std::filesystem::path& folder);

}  // namespace dga

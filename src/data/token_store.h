#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "data/config.h"
#include "data/growing_shard.h"
#include "data/source_files.h"

namespace dga {

/// Opens source files as tokens: bins and finished shards by mapping, other text by starting to tokenise it in the
/// background. Safe to use from several threads; all files must have been let go of, or stop() called, before it goes.
class TokenStore {
 public:
  /// `tokenizer` may be null as long as only bins are opened.
  TokenStore(const DataConfig& config, std::shared_ptr<const Tokenizer> tokenizer);
  ~TokenStore();
  TokenStore(const TokenStore&) = delete;
  TokenStore& operator=(const TokenStore&) = delete;

  /// Throws an input error for a text where there is no tokenizer.
  void check(const SourceFile& file) const;
  /// If the file has to be tokenised, that begins once `after` (which may be null) is done.
  std::shared_ptr<TokenFile> open(const SourceFile& file, const std::shared_ptr<TokenFile>& after = nullptr);
  /// Ends all work and makes all waits throw Stopped.
  void stop() { stop_.request_stop(); }
  ProblemCounts problems() const { return problems_.counts(); }

 private:
  std::filesystem::path shard_path(const SourceFile& file) const;
  static std::shared_ptr<TokenFile> open_bin(const SourceFile& file);
  std::shared_ptr<TokenFile> open_text(const SourceFile& file, const std::string& path,
                                       const std::shared_ptr<TokenFile>& after);

  const std::filesystem::path folder_;
  const int64_t threads_;
  const int64_t max_line_bytes_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
  std::stop_source stop_;
  ProblemLog problems_;
  std::atomic<bool> told_ = false;  // see TokenizingContext
  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<TokenFile>> open_;  // by shard path, or the bin's path and reading
  size_t prune_at_ = 64;                                  // size of open_ from which dead entries are removed
  std::set<std::string> reported_;                        // shards whose problems were reported
  std::unique_ptr<EncoderPool> encoders_;                 // made when first needed
  std::vector<std::shared_ptr<GrowingShard>> growing_;    // goes on even if nobody waits for it
};

}  // namespace dga

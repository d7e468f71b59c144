#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "data/encoder_pool.h"
#include "data/problems.h"
#include "data/source_files.h"
#include "data/text_block.h"
#include "data/token_file.h"
#include "data/token_shard.h"

namespace dga {

/// What a GrowingShard works with; all of it outlives the shard.
struct TokenizingContext {
  const Tokenizer& tokenizer;
  EncoderPool& encoders;
  ProblemLog& problems;
  std::stop_token stop;  // ends waits and work
  int64_t max_line_bytes;
  std::atomic<bool>& told;  // that another process tokenises a file: the log has one line, not one for each
};

/// A text file while it is tokenised into its shard, in the background: a thread reads lines, the pool's encoders work
/// on blocks of them, and the blocks are written in order. Documents can be read as soon as they are written. Text in
/// flight is bounded: a few blocks, and one line where it is longer than a block.
/// Of several processes that need the shard one makes it; the others follow what it has written, and one of them begins
/// again, to the same documents, where that process is gone. A shard that could not be read to the file's end, or has
/// other documents than were followed, is not published.
class GrowingShard : public TokenFile {
 public:
  struct Progress {
    int64_t documents = 0;
    int64_t tokens = 0;
    bool done = false;       // or failed
    bool elsewhere = false;  // another process makes it, or has made it
  };

  /// Begins when `after`, if there is one, is done or made by another process.
  GrowingShard(SourceFile file, std::filesystem::path shard_path, const TokenizingContext& context,
               std::shared_ptr<GrowingShard> after);
  /// Stops at once; what is not finished is thrown away.
  ~GrowingShard() override;

  std::optional<TokenDocument> document(int64_t index) override;
  void read(int64_t offset, std::span<int32_t> out) const override;
  /// Waits until done, at most so long.
  Progress wait(std::chrono::milliseconds limit);
  /// Throws what made tokenising fail.
  void rethrow_failure() const;
  /// Whether done; then without its thread, whose stack would stay as long as this object. For one caller at a time.
  bool join_if_done();

 private:
  void run();
  void wait_for_turn();
  std::unique_ptr<ShardWriter> claim();
  void follow();
  void adopt(std::shared_ptr<TokenShard> shard);
  void read_file();
  void read_document(std::string text, size_t begin_of_line, int64_t line);
  void flush(TextBlock& block);
  void submit(TextBlock block);
  void encode(int64_t number, TextBlock block, Encoder& encoder);
  void commit(EncodedBlock block);
  void report(const Problem& problem);
  void wait_for_blocks();
  void finish();
  void end(std::shared_ptr<TokenShard> shard);

  const SourceFile file_;
  const std::filesystem::path shard_path_;
  const TokenizingContext context_;
  std::stop_source stop_;  // of this file; the context's is forwarded to it
  std::stop_callback<std::function<void()>> forward_stop_;

  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  std::unique_ptr<ShardWriter> writer_;      // until finished
  std::unique_ptr<ShardFollower> followed_;  // another process's, while and after it makes the shard
  std::shared_ptr<TokenShard> finished_;     // from then on
  std::vector<TokenDocument> documents_;     // known from the one or the other
  size_t made_ = 0;                          // of them, here
  int64_t open_tokens_ = 0;                  // of a document whose last piece has not come yet
  ShardProblems problems_;
  std::map<int64_t, EncodedBlock> waiting_;  // encoded before their turn
  int64_t submitted_ = 0;
  int64_t committed_ = 0;
  int64_t running_ = 0;  // tasks in the pool
  std::exception_ptr failure_;
  bool done_ = false;
  bool elsewhere_ = false;
  std::shared_ptr<GrowingShard> after_;
  std::jthread reader_;
};

}  // namespace dga

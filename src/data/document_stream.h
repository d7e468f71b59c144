#pragma once

#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "data/config.h"
#include "data/source_files.h"
#include "data/token_store.h"

namespace dga {

/// A document as a source hands it out.
struct StreamDocument {
  const SourceFile* file = nullptr;
  std::shared_ptr<TokenFile> tokens;
  TokenDocument document;
};

/// The endless sequence of documents of one source: files permuted per epoch, documents permuted in shuffle windows,
/// short ones left out, long ones repeated (Loader says how). A window holds references, not tokens, so its size does
/// not matter; the next one is put together in the background while this one is used.
class DocumentStream {
 public:
  /// Enough to go on from: where the current window begins, and how many of its documents were handed out.
  struct Position {
    int64_t epoch = 0;
    int64_t file = 0;      // in the epoch's permutation
    int64_t document = 0;  // in the file
    int64_t window = 0;
    int64_t emitted = 0;
  };

  /// The store must outlive the stream and be stopped before a stream that may be waiting is destroyed.
  DocumentStream(const SourceConfig& config, std::vector<SourceFile> files, TokenStore& store, uint64_t seed,
                 int64_t shuffle_tokens);

  StreamDocument next();
  /// Begins to put the first window together, so that several sources do so at the same time.
  void prepare();
  Position position() const { return position_; }
  /// Only before the first next().
  void start_at(const Position& position) { position_ = position; }
  const std::string& name() const { return config_.name; }
  const std::vector<SourceFile>& files() const { return files_; }

 private:
  struct Reference {
    size_t file = 0;  // in Window::files
    int64_t document = 0;
  };
  struct WindowFile {
    const SourceFile* file = nullptr;
    std::shared_ptr<TokenFile> tokens;
  };
  struct Window {
    Position begin;
    Position end;  // where the next window begins
    std::vector<WindowFile> files;
    std::vector<Reference> documents;
  };

  Window build(Position begin);
  Position collect(Position place, Window& window);
  void shuffle(Window& window) const;
  int64_t file_number(const Position& place);
  WindowFile open(const Position& place);
  int64_t copies(const Position& place, int64_t tokens);
  void build_ahead(const Position& begin);
  void enter_next_window(int64_t emitted);

  const SourceConfig config_;
  const std::vector<SourceFile> files_;
  TokenStore& store_;
  const uint64_t seed_;
  const uint64_t key_;
  const int64_t shuffle_tokens_;
  Position position_;
  int64_t order_epoch_ = -1;
  std::vector<int64_t> order_;        // the files' permutation in that epoch; used by build() alone
  std::shared_ptr<TokenFile> ahead_;  // the file after the one in use, so that it is tokenised next
  std::optional<Window> window_;
  std::future<Window> next_window_;  // last: waits for its thread
};

}  // namespace dga

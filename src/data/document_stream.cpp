#include "data/document_stream.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "util/error.h"
#include "util/random.h"

namespace dga {
namespace {

// Purposes of random numbers, so that no two of them share a stream.
constexpr uint64_t kFileOrder = 1;
constexpr uint64_t kWindowOrder = 2;
constexpr uint64_t kCopies = 3;

}  // namespace

DocumentStream::DocumentStream(const SourceConfig& config, std::vector<SourceFile> files, TokenStore& store,
                               uint64_t seed, int64_t shuffle_tokens)
    : config_(config),
      files_(std::move(files)),
      store_(store),
      seed_(seed),
      key_(key_of(config.name)),
      shuffle_tokens_(shuffle_tokens) {}

void DocumentStream::prepare() {
  if (!window_ && !next_window_.valid()) build_ahead(position_);
}

void DocumentStream::enter_next_window(int64_t emitted) {
  window_.reset();
  window_ = next_window_.get();
  position_ = window_->begin;
  position_.emitted = emitted;
  DGA_CHECK_INPUT(emitted <= static_cast<int64_t>(window_->documents.size()), "source \"", config_.name,
                  "\" had handed out ", emitted, " documents of window ", position_.window, ", which now holds ",
                  window_->documents.size(), "; its files have changed");
  build_ahead(window_->end);
}

StreamDocument DocumentStream::next() {
  prepare();
  if (!window_) enter_next_window(position_.emitted);  // it may be one that was begun
  if (position_.emitted == static_cast<int64_t>(window_->documents.size())) enter_next_window(0);
  const Reference reference = window_->documents[static_cast<size_t>(position_.emitted++)];
  const WindowFile& file = window_->files[reference.file];
  return {file.file, file.tokens, file.tokens->document(reference.document).value()};
}

void DocumentStream::build_ahead(const Position& begin) {
  next_window_ = std::async(std::launch::async, [this, begin] { return build(begin); });
}

int64_t DocumentStream::file_number(const Position& place) {
  if (order_epoch_ != place.epoch) {
    order_ = CounterRng{seed_, key_, kFileOrder, static_cast<uint64_t>(place.epoch)}.permutation(
        static_cast<int64_t>(files_.size()));
    order_epoch_ = place.epoch;
  }
  return order_[static_cast<size_t>(place.file)];
}

DocumentStream::WindowFile DocumentStream::open(const Position& place) {
  const SourceFile& file = files_[static_cast<size_t>(file_number(place))];
  std::shared_ptr<TokenFile> tokens = store_.open(file);
  if (place.file + 1 < static_cast<int64_t>(files_.size())) {
    Position following = place;
    ++following.file;
    ahead_ = store_.open(files_[static_cast<size_t>(file_number(following))], tokens);
  }
  return {&file, std::move(tokens)};
}

int64_t DocumentStream::copies(const Position& place, int64_t tokens) {
  if (!config_.upsample_min_tokens || tokens < *config_.upsample_min_tokens) return 1;
  const double whole = std::floor(config_.upsample_factor);
  const CounterRng rng{seed_, key_, kCopies, static_cast<uint64_t>(place.epoch),
                       static_cast<uint64_t>(file_number(place))};
  const bool extra = rng.uniform(static_cast<uint64_t>(place.document)) < config_.upsample_factor - whole;
  return static_cast<int64_t>(whole) + (extra ? 1 : 0);
}

DocumentStream::Window DocumentStream::build(Position begin) {
  begin.emitted = 0;
  Window window;
  window.begin = begin;
  window.end = collect(begin, window);
  ++window.end.window;
  shuffle(window);
  return window;
}

/// Adds documents from `place` on; returns the place after the last.
DocumentStream::Position DocumentStream::collect(Position place, Window& window) {
  const auto file_count = static_cast<int64_t>(files_.size());
  const int64_t min_tokens = std::max<int64_t>(1, config_.min_tokens);
  bool whole_epoch = place.file == 0 && place.document == 0;
  bool file_open = false;
  int64_t tokens = 0;
  while (window.documents.empty() || tokens < shuffle_tokens_) {
    if (place.file == file_count) {
      if (!window.documents.empty()) break;
      DGA_CHECK_INPUT(!whole_epoch, "source \"", config_.name, "\" has no document of at least ", min_tokens,
                      " tokens");
      whole_epoch = true;
      place = {place.epoch + 1, 0, 0, place.window, 0};
    }
    if (!file_open) window.files.push_back(open(place));
    const std::optional<TokenDocument> document = window.files.back().tokens->document(place.document);
    file_open = document.has_value();
    if (!document) {
      place = {place.epoch, place.file + 1, 0, place.window, 0};
      continue;
    }
    if (document->tokens >= min_tokens) {
      const int64_t count = copies(place, document->tokens);
      window.documents.insert(window.documents.end(), static_cast<size_t>(count),
                              {window.files.size() - 1, place.document});
      tokens += count * document->tokens;
    }
    ++place.document;
  }
  return place;
}

void DocumentStream::shuffle(Window& window) const {
  const CounterRng rng{seed_, key_, kWindowOrder, static_cast<uint64_t>(window.begin.window)};
  std::vector<Reference> shuffled;
  shuffled.reserve(window.documents.size());
  for (const int64_t index : rng.permutation(static_cast<int64_t>(window.documents.size()))) {
    shuffled.push_back(window.documents[static_cast<size_t>(index)]);
  }
  window.documents = std::move(shuffled);
}

}  // namespace dga

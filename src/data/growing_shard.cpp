#include "data/growing_shard.h"

#include <string_view>
#include <utility>

#include "data/json_text.h"
#include "data/line_reader.h"
#include "util/error.h"
#include "util/log.h"

namespace dga {
namespace {

constexpr size_t kBlockBytes = size_t{1} << 17;
constexpr size_t kLongLineBytes = size_t{1} << 19;  // encoded by several threads
constexpr size_t kPieceBytes = size_t{1} << 18;
constexpr auto kPollInterval = std::chrono::milliseconds(100);

int token_bytes(const Tokenizer& tokenizer) { return tokenizer.vocab_size() <= 65536 ? 2 : 4; }

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r") == std::string_view::npos; }

}  // namespace

GrowingShard::GrowingShard(SourceFile file, std::filesystem::path shard_path, const TokenizingContext& context,
                           std::shared_ptr<GrowingShard> after)
    : file_(std::move(file)),
      shard_path_(std::move(shard_path)),
      context_(context),
      forward_stop_(context.stop, [this] { stop_.request_stop(); }),
      after_(std::move(after)),
      reader_([this] { run(); }) {}

GrowingShard::~GrowingShard() {
  stop_.request_stop();
  if (reader_.joinable()) reader_.join();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return running_ == 0; });
}

void GrowingShard::run() {
  try {
    wait_for_turn();
    std::unique_ptr<ShardWriter> writer = claim();
    if (!writer) return;
    {
      const std::lock_guard lock(mutex_);
      writer_ = std::move(writer);
      elsewhere_ = false;
    }
    read_file();
    wait_for_blocks();
    finish();
  } catch (const Stopped&) {
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::current_exception();
    done_ = true;
    changed_.notify_all();
  }
}

void GrowingShard::wait_for_turn() {
  if (!after_) return;
  while (true) {
    const Progress before = after_->wait(kPollInterval);
    if (before.done || before.elsewhere) break;
    if (stop_.stop_requested()) throw Stopped();
  }
  after_.reset();
}

/// The shard's file to write into; nothing where another process has made the shard meanwhile.
std::unique_ptr<ShardWriter> GrowingShard::claim() {
  for (bool waited = false;; waited = true) {
    std::unique_ptr<ShardWriter> writer = ShardWriter::begin(shard_path_, token_bytes(context_.tokenizer));
    if (writer || waited) {
      if (std::shared_ptr<TokenShard> made = TokenShard::open(shard_path_)) {
        writer.reset();  // its file goes before anybody takes this for done
        adopt(std::move(made));
        return nullptr;
      }
    }
    if (writer) {
      if (waited) log::info("the process that was tokenising ", file_.path.string(), " is gone; tokenising it here");
      return writer;
    }
    if (!context_.told.exchange(true)) {
      log::info("another process is tokenising ", file_.path.string(), "; following it, and others from now on");
    }
    follow();
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, stop_.get_token(), kPollInterval, [] { return false; });
    if (stop_.stop_requested()) throw Stopped();
  }
}

/// Learns of documents that the other process has written.
void GrowingShard::follow() {
  std::unique_ptr<ShardFollower> opened;
  if (!followed_) opened = ShardFollower::open(shard_path_, token_bytes(context_.tokenizer));
  ShardFollower* follower = followed_ ? followed_.get() : opened.get();
  const std::vector<TokenDocument> documents = follower ? follower->next() : std::vector<TokenDocument>();
  const std::lock_guard lock(mutex_);
  elsewhere_ = true;
  if (opened) followed_ = std::move(opened);
  documents_.insert(documents_.end(), documents.begin(), documents.end());
  changed_.notify_all();
}

/// Takes over what another process has made.
void GrowingShard::adopt(std::shared_ptr<TokenShard> shard) {
  context_.problems.report_earlier(file_.path, shard->problems().counts, shard->problems().first);
  const std::lock_guard lock(mutex_);
  elsewhere_ = true;
  end(std::move(shard));
}

void GrowingShard::read_file() {
  const bool whole = file_.format == SourceFormat::txt;
  TextBlock block;
  int64_t line = 1;
  try {
    LineReader reader(file_.path, context_.max_line_bytes, whole ? LineReader::Unit::file : LineReader::Unit::line);
    while (true) {
      const size_t begin = block.lines_text.size();
      line = reader.line() + 1;
      const LineReader::Result result = reader.append_next(block.lines_text);
      if (result == LineReader::Result::end) break;
      const size_t size = block.lines_text.size() - begin;
      if (result == LineReader::Result::too_long) {
        block.problems.push_back(
            {ProblemKind::long_line, line,
             str("longer than data.max_line_bytes, ", context_.max_line_bytes, ": ", reader.line_bytes(), " bytes")});
      } else if (size >= kLongLineBytes) {
        // The long line keeps its memory; the short ones before it are copied.
        std::string text = std::exchange(block.lines_text, block.lines_text.substr(0, begin));
        flush(block);
        read_document(std::move(text), begin, line);
      } else if (!whole && is_blank(std::string_view(block.lines_text).substr(begin))) {
        block.lines_text.resize(begin);
      } else {
        block.lines.push_back({begin, size, line});
      }
      if (block.lines_text.size() >= kBlockBytes || block.problems.size() >= 1024) flush(block);
    }
    if (whole && line == 1) block.problems.push_back({ProblemKind::empty_document, 1, "the file is empty"});
  } catch (const DamagedFile& damage) {
    block.problems.push_back({ProblemKind::damaged_file, line, damage.what()});
  }
  flush(block);
}

void GrowingShard::read_document(std::string text, size_t begin_of_line, int64_t line) {
  ExtractedText extracted = extract_text(std::move(text), begin_of_line, file_);
  if (extracted.problem) {
    extracted.problem->line = line;
    TextBlock block;
    block.problems.push_back(std::move(*extracted.problem));
    return submit(std::move(block));
  }
  const auto document = std::make_shared<const std::string>(std::move(extracted.text));
  for (size_t begin = 0, end = 0; begin < document->size(); begin = end) {
    end = context_.tokenizer.next_cut(*document, begin + kPieceBytes);
    TextBlock piece;
    piece.document = document;
    piece.begin = begin;
    piece.end = end;
    piece.document_line = line;
    submit(std::move(piece));
  }
}

void GrowingShard::flush(TextBlock& block) {
  if (!block.lines.empty() || !block.problems.empty()) submit(std::move(block));
  block = TextBlock();
}

void GrowingShard::submit(TextBlock block) {
  int64_t number = 0;
  {
    std::unique_lock lock(mutex_);
    const int64_t limit = 2 * context_.encoders.threads() + 2;
    const bool ready =
        changed_.wait(lock, stop_.get_token(), [&] { return failure_ || submitted_ - committed_ < limit; });
    if (failure_) std::rethrow_exception(failure_);
    if (!ready || stop_.stop_requested()) throw Stopped();
    number = submitted_++;
    ++running_;
  }
  // std::function wants its target copyable.
  auto shared = std::make_shared<TextBlock>(std::move(block));
  context_.encoders.submit([this, number, shared](Encoder& encoder) { encode(number, std::move(*shared), encoder); });
}

void GrowingShard::encode(int64_t number, TextBlock block, Encoder& encoder) {
  EncodedBlock encoded;
  std::exception_ptr failure;
  try {
    if (!stop_.stop_requested()) encoded = encode_block(std::move(block), file_, encoder);
  } catch (...) {
    failure = std::current_exception();
  }
  // The last use of this object is inside the lock: once `running_` is 0 it may go.
  const std::lock_guard lock(mutex_);
  --running_;
  if (failure && !failure_) failure_ = failure;
  if (!failure_ && !stop_.stop_requested()) {
    waiting_.emplace(number, std::move(encoded));
    try {
      for (auto next = waiting_.begin(); next != waiting_.end() && next->first == committed_; ++committed_) {
        commit(std::move(next->second));
        next = waiting_.erase(next);
      }
    } catch (...) {
      failure_ = std::current_exception();
    }
  }
  changed_.notify_all();
}

void GrowingShard::commit(EncodedBlock block) {
  for (const Problem& problem : block.problems) report(problem);
  const int64_t base = writer_->tokens();
  writer_->append(block.tokens);
  for (TokenDocument& document : block.documents) {
    document.offset += base - (block.piece ? open_tokens_ : 0);
    document.tokens += block.piece ? open_tokens_ : 0;
    if (made_ == documents_.size()) documents_.push_back(document);
    // Documents that were followed may be in use.
    DGA_CHECK(document == documents_[made_], file_.path.string(), ":", document.line,
              ": not the document that another process read here; the file has changed");
    ++made_;
    writer_->tell(document);
  }
  writer_->flush_told();
  open_tokens_ = block.piece && block.documents.empty() ? open_tokens_ + static_cast<int64_t>(block.tokens.size()) : 0;
}

void GrowingShard::report(const Problem& problem) {
  context_.problems.report(file_.path, problem);
  if (total(problems_.counts) == 0) problems_.first = problem;
  ++problems_.counts[static_cast<size_t>(problem.kind)];
}

void GrowingShard::wait_for_blocks() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, stop_.get_token(), [this] { return failure_ || committed_ == submitted_; });
  if (failure_) std::rethrow_exception(failure_);
  if (stop_.stop_requested()) throw Stopped();
}

void GrowingShard::finish() {
  // All blocks are in, so nothing changes any more; readers go on meanwhile, syncing may take long.
  DGA_CHECK(made_ == documents_.size(), file_.path.string(), " has ", made_, " documents, where another process read ",
            documents_.size(), " documents; the file has changed");
  writer_->finish(documents_, problems_);
  std::shared_ptr<TokenShard> shard = TokenShard::open(shard_path_);
  const std::lock_guard lock(mutex_);
  end(std::move(shard));
}

/// Under the lock: documents come from the shard, if there is one, and no longer from what came before it.
void GrowingShard::end(std::shared_ptr<TokenShard> shard) {
  if (shard) {
    finished_ = std::move(shard);
    writer_.reset();
    followed_.reset();
    std::vector<TokenDocument>().swap(documents_);
  }
  done_ = true;
  changed_.notify_all();
}

std::optional<TokenDocument> GrowingShard::document(int64_t index) {
  std::unique_lock lock(mutex_);
  const auto known = [&] { return index < static_cast<int64_t>(documents_.size()); };
  changed_.wait(lock, stop_.get_token(), [&] { return known() || done_; });
  if (known()) return documents_[static_cast<size_t>(index)];
  if (finished_) return finished_->document(index);
  if (failure_) std::rethrow_exception(failure_);
  if (!done_) throw Stopped();
  return std::nullopt;
}

void GrowingShard::read(int64_t offset, std::span<int32_t> out) const {
  std::unique_lock lock(mutex_);
  if (!finished_) {
    const bool is_here = writer_ && offset + static_cast<int64_t>(out.size()) <= writer_->tokens();
    return is_here ? writer_->read(offset, out) : followed_->read(offset, out);
  }
  const std::shared_ptr<TokenShard> shard = finished_;
  lock.unlock();
  shard->read(offset, out);
}

GrowingShard::Progress GrowingShard::wait(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, stop_.get_token(), limit, [this] { return done_; });
  if (finished_) return {finished_->documents(), finished_->tokens(), done_, elsewhere_};
  return {static_cast<int64_t>(documents_.size()), writer_ ? writer_->tokens() : 0, done_, elsewhere_};
}

void GrowingShard::rethrow_failure() const {
  const std::lock_guard lock(mutex_);
  if (failure_) std::rethrow_exception(failure_);
}

bool GrowingShard::join_if_done() {
  {
    const std::lock_guard lock(mutex_);
    if (!done_) return false;
  }
  if (reader_.joinable()) reader_.join();
  return true;
}

}  // namespace dga

#include "data/packer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "util/error.h"

namespace dga {

Packer::Packer(const DataConfig& config, std::vector<std::unique_ptr<DocumentStream>> sources,
               const PackerOptions& options)
    : config_(config), options_(options) {
  for (size_t i = 0; i < sources.size(); ++i) {
    sources_.push_back({std::move(sources[i]), config.sources[i].weight, 0});
  }
}

void Packer::draw() {
  for (const Source& source : sources_) source.documents->prepare();
  const auto served = [](const Source& source) { return static_cast<double>(source.tokens) / source.weight; };
  const auto next = std::min_element(sources_.begin(), sources_.end(),
                                     [&](const Source& a, const Source& b) { return served(a) < served(b); });
  draw_from(static_cast<size_t>(next - sources_.begin()));
}

void Packer::draw_from(size_t index) {
  Source& source = sources_[index];
  Current drawn{index, source.documents->next(), 0, 0};
  drawn.length = drawn.document.document.tokens + (config_.bos ? 1 : 0) + (config_.eos ? 1 : 0);
  source.tokens += drawn.length;
  current_ = std::move(drawn);
}

Packer::Current& Packer::current() {
  if (!current_ || current_->offset == current_->length) draw();
  return *current_;
}

DocumentRef Packer::describe(const Current& from) const {
  DocumentRef ref;
  ref.source = sources_[from.source].documents->name();
  ref.file = from.document.file->path.string();
  ref.line_or_index = from.document.document.line;
  return ref;
}

/// Tokens [offset, offset + out.size()) of [BOS] document [EOS].
void Packer::copy(const Current& from, std::span<int32_t> out) const {
  const int64_t bos = config_.bos ? 1 : 0;
  int64_t offset = from.offset;
  size_t done = 0;
  if (offset < bos && !out.empty()) {
    out[done++] = options_.bos_id;
    ++offset;
  }
  const int64_t left = std::max<int64_t>(0, from.document.document.tokens - (offset - bos));
  const size_t count = std::min(out.size() - done, static_cast<size_t>(left));
  const std::span<int32_t> body = out.subspan(done, count);
  if (count > 0) from.document.tokens->read(from.document.document.offset + offset - bos, body);
  done += count;
  if (done < out.size()) out[done] = options_.eos_id;

  const auto unknown =
      std::find_if(body.begin(), body.end(), [&](int32_t token) { return token < 0 || token >= options_.vocab_size; });
  if (unknown == body.end()) return;
  const DocumentRef ref = describe(from);
  fail(ExitCode::input, ref.file, ":", ref.line_or_index, ": source \"", ref.source, "\": token ",
       offset - bos + (unknown - body.begin()), " of the document has id ", static_cast<uint32_t>(*unknown),
       ", beyond the model's vocabulary of ", options_.vocab_size);
}

Batch Packer::take(int64_t rows) {
  const int64_t length = config_.context_length;
  const auto total = static_cast<size_t>(rows * length);
  // One more than the rows hold: the last label.
  std::vector<int32_t> stream(total + 1);
  std::vector<Start> starts;
  for (size_t done = 0; done < total;) {
    Current& from = current();
    const auto count = std::min(total - done, static_cast<size_t>(from.length - from.offset));
    starts.push_back({static_cast<int64_t>(done), from.offset == 0, describe(from)});
    copy(from, std::span(stream).subspan(done, count));
    from.offset += static_cast<int64_t>(count);
    done += count;
  }
  const Current& following = current();
  copy(following, std::span(stream).subspan(total, 1));

  Batch batch;
  batch.rows = rows;
  batch.context_length = length;
  batch.tokens.assign(stream.begin(), stream.end() - 1);
  batch.labels.assign(stream.begin() + 1, stream.end());
  if (config_.document_masking) {
    for (const Start& start : starts) {
      if (start.first_token && start.position > 0) batch.labels[static_cast<size_t>(start.position) - 1] = kIgnoreLabel;
    }
    if (following.offset == 0) batch.labels.back() = kIgnoreLabel;
  }
  divide(starts, batch);
  for (int64_t row = 0; row < rows; ++row) batch.row_numbers.push_back(row_ + row);
  row_ += rows;
  return batch;
}

/// Gives each row its starts; a document that reaches into a row starts it at 0.
void Packer::divide(const std::vector<Start>& starts, Batch& batch) {
  batch.starts.resize(static_cast<size_t>(batch.rows));
  size_t next = 0;
  for (int64_t row = 0; row < batch.rows; ++row) {
    const int64_t begin = row * batch.context_length;
    std::vector<int64_t>& row_starts = batch.starts[static_cast<size_t>(row)];
    const auto add = [&](const Start& start, int64_t position) {
      row_starts.push_back(position);
      DocumentRef ref = start.ref;
      ref.row = row;
      ref.start = position;
      batch.documents.push_back(std::move(ref));
    };
    if (next == starts.size() || starts[next].position > begin) add(starts[next - 1], 0);
    for (; next < starts.size() && starts[next].position < begin + batch.context_length; ++next) {
      add(starts[next], starts[next].position - begin);
    }
  }
}

void Packer::skip(int64_t rows) {
  for (int64_t left = rows * config_.context_length; left > 0;) {
    Current& from = current();
    const int64_t count = std::min(left, from.length - from.offset);
    from.offset += count;
    left -= count;
  }
  current();
  row_ += rows;
}

nlohmann::json Packer::state() const {
  nlohmann::json state = {{"row", row_}, {"sources", nlohmann::json::array()}, {"document", nullptr}};
  for (const Source& source : sources_) {
    const DocumentStream::Position at = source.documents->position();
    state["sources"].push_back({{"name", source.documents->name()},
                                {"epoch", at.epoch},
                                {"file", at.file},
                                {"document", at.document},
                                {"window", at.window},
                                {"emitted", at.emitted},
                                {"tokens", source.tokens}});
  }
  if (current_) state["document"] = {{"source", current_->source}, {"offset", current_->offset}};
  return state;
}

void Packer::restore(const nlohmann::json& state) {
  row_ = state.at("row");
  const nlohmann::json& document = state.at("document");
  for (size_t i = 0; i < sources_.size(); ++i) {
    const nlohmann::json& saved = state.at("sources").at(i);
    DocumentStream::Position at{saved.at("epoch"), saved.at("file"), saved.at("document"), saved.at("window"),
                                saved.at("emitted")};
    // The document in use is drawn once more.
    if (!document.is_null() && document.at("source") == i) --at.emitted;
    sources_[i].documents->start_at(at);
    sources_[i].tokens = saved.at("tokens");
  }
  if (document.is_null()) return;
  for (const Source& source : sources_) source.documents->prepare();
  const size_t index = document.at("source");
  draw_from(index);
  sources_[index].tokens -= current_->length;
  current_->offset = document.at("offset");
  DGA_CHECK_INPUT(current_->offset < current_->length, describe(*current_).file, ":", current_->document.document.line,
                  ": the saved place, token ", current_->offset,
                  ", is beyond the end of this document; its file has changed");
}

}  // namespace dga

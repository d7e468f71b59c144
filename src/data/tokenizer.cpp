#include "data/tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>

#include "data/cuts.h"
#include "data/encoder.h"
#include "data/sentencepiece_spec.h"
#include "util/error.h"
#include "util/file.h"
#include "util/hash.h"

namespace dga {
namespace {

bool has_space_after_other(std::string_view piece) {
  bool other = false;
  while (!piece.empty()) {
    const bool marker = piece.starts_with(kSpaceMarker);
    if ((marker || piece.front() == ' ') && other) return true;
    other = other || !(marker || piece.front() == ' ');
    piece.remove_prefix(marker ? kSpaceMarker.size() : 1);
  }
  return false;
}

int32_t count_text_bytes(std::string_view piece) {
  int32_t bytes = 0;
  while (!piece.empty()) {
    piece.remove_prefix(piece.starts_with(kSpaceMarker) ? kSpaceMarker.size() : 1);
    ++bytes;
  }
  return bytes;
}

}  // namespace

Tokenizer::Tokenizer(const std::filesystem::path& path)
    : path_(path),
      processor_(std::make_unique<sentencepiece::SentencePieceProcessor>()),
      cuts_(std::make_unique<Cuts>()) {
  const std::string model = read_file(path);
  const auto status = processor_->LoadFromSerializedProto(model);
  DGA_CHECK_INPUT(status.ok() && !model.empty(), path.string(), " is no sentencepiece model: ", status.ToString());
  hash_ = hash_hex(model);
  vocab_size_ = processor_->GetPieceSize();

  const SentencepieceSpec spec = read_sentencepiece_spec(model);
  cuts_->add_dummy_prefix = spec.add_dummy_prefix;
  cuts_->exact = spec.model_type == SentencepieceSpec::ModelType::bpe && spec.identity_normalization &&
                 spec.escape_whitespaces && !spec.remove_extra_whitespaces && !spec.whitespace_as_suffix &&
                 !processor_->IsUnknown(processor_->PieceToId(kSpaceMarker));
  cuts_->at_newline = true;
  for (int id = 0; id < vocab_size_; ++id) {
    const std::string& text = processor_->IdToPiece(id);
    const bool silent = processor_->IsControl(id) || processor_->IsUnknown(id) || processor_->IsUnused(id);
    token_bytes_.push_back(silent ? 0 : processor_->IsByte(id) ? 1 : count_text_bytes(text));
    if (text.size() > 1 && text.find('\n') != std::string::npos) cuts_->at_newline = false;
    if (has_space_after_other(text)) cuts_->exact = false;
  }
}

Tokenizer::~Tokenizer() = default;

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  Encoder(*this).append(text, TextPosition::document_start, ids);
  return ids;
}

size_t Tokenizer::next_cut(std::string_view text, size_t from) const {
  if (!cuts_->exact) return text.size();
  for (size_t at = std::max<size_t>(from, 1); at < text.size(); ++at) {
    const char next = text[at];
    if (next != ' ' && (next != '\n' || !cuts_->at_newline)) continue;
    // A lone space has no text for the dummy prefix to stand before.
    if (next == ' ' && at + 1 == text.size()) break;
    if (!ends_in_space(text.substr(0, at))) return at;
  }
  return text.size();
}

bool Tokenizer::can_be_cut() const { return cuts_->exact; }

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  for (const int32_t id : ids) piece(id);
  std::string text;
  const auto status = processor_->Decode(std::vector<int>(ids.begin(), ids.end()), &text);
  DGA_CHECK(status.ok(), "sentencepiece cannot decode ", ids.size(), " tokens: ", status.ToString());
  return text;
}

int32_t Tokenizer::bos_id() const { return processor_->bos_id(); }
int32_t Tokenizer::eos_id() const { return processor_->eos_id(); }
int32_t Tokenizer::unk_id() const { return processor_->unk_id(); }

const std::string& Tokenizer::piece(int32_t id) const {
  DGA_CHECK(id >= 0 && id < vocab_size_, "token ", id, " is outside the vocabulary of ", vocab_size_, " in ",
            path_.string());
  return processor_->IdToPiece(id);
}

int32_t Tokenizer::token_bytes(int32_t id) const {
  piece(id);
  return token_bytes_[static_cast<size_t>(id)];
}

}  // namespace dga

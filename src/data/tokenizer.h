#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace dga {

/// A sentencepiece model. All functions are safe to call from several threads at once.
class Tokenizer {
 public:
  /// Throws an input error naming the path where it holds no sentencepiece model.
  explicit Tokenizer(const std::filesystem::path& path);
  ~Tokenizer();

  /// Token ids of a UTF-8 text, without BOS and EOS: exactly what sentencepiece gives for it. See encoder.h for many.
  std::vector<int32_t> encode(std::string_view text) const;
  /// The first place at or after `from` where a document may be cut and its pieces encoded apart (Encoder) without
  /// changing its tokens; its size where there is none.
  size_t next_cut(std::string_view text, size_t from) const;
  /// Whether next_cut finds any place: if not, every document is encoded whole.
  bool can_be_cut() const;
  /// Text of the tokens; control tokens have none. Throws on an id outside the vocabulary.
  std::string decode(std::span<const int32_t> ids) const;

  int64_t vocab_size() const { return vocab_size_; }
  /// -1 where the model has no such token.
  int32_t bos_id() const;
  int32_t eos_id() const;
  int32_t unk_id() const;
  const std::string& piece(int32_t id) const;
  /// Bytes of text a token stands for: 1 for a byte piece, 0 for control tokens and unk, else the piece's UTF-8 bytes
  /// with the space marker counted as the one byte it stands for.
  int32_t token_bytes(int32_t id) const;
  /// Hash of the model file: part of the names of token shards and of the loader's state.
  const std::string& hash() const { return hash_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  friend class Encoder;
  struct Cuts;  // where a text may be cut without changing its tokens
  std::filesystem::path path_;
  std::string hash_;
  int64_t vocab_size_ = 0;
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
  std::unique_ptr<Cuts> cuts_;
  std::vector<int32_t> token_bytes_;
};

}  // namespace dga

#pragma once

#include <string>
#include <string_view>

namespace dga {

/// The settings of a sentencepiece model that decide how it treats spaces. Field numbers and defaults are those of
/// sentencepiece_model.proto, whose generated header the library's packages do not install.
struct SentencepieceSpec {
  enum class ModelType { unigram = 1, bpe = 2, word = 3, character = 4 };
  ModelType model_type = ModelType::unigram;
  bool whitespace_as_suffix = false;
  bool identity_normalization = true;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

/// Reads the settings from a serialized ModelProto. Throws an input error where the bytes are no such message.
SentencepieceSpec read_sentencepiece_spec(std::string_view model_proto);

}  // namespace dga

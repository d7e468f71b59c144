#pragma once

#include <filesystem>

#include "model/llama_config.h"

namespace dga {

/// Copies the tokenizer and generation files of `source` into `folder`: of a Hugging Face folder whatever it has of
/// them, of a sentencepiece model the model itself. Where tokenizer_config.json, special_tokens_map.json or
/// generation_config.json are missing, minimal ones are written from the sentencepiece model. Throws an input error
/// for a sentencepiece model that cannot be read.
void write_tokenizer_files(const std::filesystem::path& source, const std::filesystem::path& folder);

/// Sets the special tokens that `config` lacks to those of the source's sentencepiece model, if it has one.
void fill_special_tokens(const std::filesystem::path& source, LlamaConfig& config);

}  // namespace dga

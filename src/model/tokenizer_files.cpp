#include "model/tokenizer_files.h"

#include <sentencepiece_processor.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "util/error.h"
#include "util/file.h"

namespace dga {
namespace {

using nlohmann::json;
using sentencepiece::SentencePieceProcessor;

constexpr const char* kCopied[] = {"tokenizer.model",         "tokenizer.json",    "tokenizer_config.json",
                                   "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
                                   "generation_config.json"};

/// The sentencepiece model that `source` is or holds; empty if there is none.
std::filesystem::path sentencepiece_path(const std::filesystem::path& source) {
  if (source.empty() || !std::filesystem::is_directory(source)) return source;
  const std::filesystem::path model = source / "tokenizer.model";
  return std::filesystem::exists(model) ? model : std::filesystem::path();
}

std::unique_ptr<SentencePieceProcessor> open_sentencepiece(const std::filesystem::path& path) {
  auto processor = std::make_unique<SentencePieceProcessor>();
  const auto status = processor->Load(path.string());
  DGA_CHECK_INPUT(status.ok(), path.string(), ": not a readable sentencepiece model: ", status.ToString());
  return processor;
}

void write_synced(const std::filesystem::path& path, const std::string& bytes) {
  OutputFile out(path);
  out.write(bytes);
  out.close_synced();
}

json special_tokens(const SentencePieceProcessor& model) {
  json tokens = json::object();
  const std::pair<const char*, int> known[] = {{"bos_token", model.bos_id()},
                                               {"eos_token", model.eos_id()},
                                               {"unk_token", model.unk_id()},
                                               {"pad_token", model.pad_id()}};
  for (const auto& [name, id] : known) {
    if (id >= 0) tokens[name] = model.IdToPiece(id);
  }
  return tokens;
}

}  // namespace

void write_tokenizer_files(const std::filesystem::path& source, const std::filesystem::path& folder) {
  if (source.empty()) return;
  if (std::filesystem::is_directory(source)) {
    for (const char* name : kCopied) {
      if (std::filesystem::exists(source / name)) write_synced(folder / name, read_file(source / name));
    }
  } else {
    write_synced(folder / "tokenizer.model", read_file(source));
  }
  const std::filesystem::path path = sentencepiece_path(source);
  if (path.empty()) return;
  const std::unique_ptr<SentencePieceProcessor> model = open_sentencepiece(path);
  const auto write_missing = [&](const char* name, const json& object) {
    if (!std::filesystem::exists(folder / name)) write_synced(folder / name, object.dump(2) + "\n");
  };
  json config = special_tokens(*model);
  write_missing("special_tokens_map.json", config);
  config.update({{"tokenizer_class", "LlamaTokenizer"},
                 {"add_bos_token", model->bos_id() >= 0},
                 {"add_eos_token", false},
                 {"legacy", false},
                 {"clean_up_tokenization_spaces", false}});
  write_missing("tokenizer_config.json", config);
  json generation = json::object();
  if (model->bos_id() >= 0) generation["bos_token_id"] = model->bos_id();
  if (model->eos_id() >= 0) generation["eos_token_id"] = model->eos_id();
  if (model->pad_id() >= 0) generation["pad_token_id"] = model->pad_id();
  write_missing("generation_config.json", generation);
}

void fill_special_tokens(const std::filesystem::path& source, LlamaConfig& config) {
  const std::filesystem::path path = sentencepiece_path(source);
  if (path.empty()) return;
  const std::unique_ptr<SentencePieceProcessor> model = open_sentencepiece(path);
  if (!config.bos_token_id && model->bos_id() >= 0) config.bos_token_id = model->bos_id();
  if (config.eos_token_id.empty() && model->eos_id() >= 0) config.eos_token_id = {model->eos_id()};
  if (!config.pad_token_id && model->pad_id() >= 0) config.pad_token_id = model->pad_id();
}

}  // namespace dga

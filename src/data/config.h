#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/fields.h"

namespace dga {

/// What a source's files hold, after .zst or .gz has been taken off. `automatic` goes by the file name's ending.
enum class SourceFormat { automatic, jsonl, txt, u16, u32 };
inline auto enum_names(SourceFormat) {
  return config::names<SourceFormat>({{SourceFormat::automatic, "auto"},
                                      {SourceFormat::jsonl, "jsonl"},
                                      {SourceFormat::txt, "txt"},
                                      {SourceFormat::u16, "u16"},
                                      {SourceFormat::u32, "u32"}});
}

/// What happens to a damaged file, a line that is no JSON, a row without text, invalid UTF-8, an empty document, a line
/// beyond the limit. `skip`: counted by kind, named by file and line in the log, left out. `refuse`: the run ends
/// there.
enum class OnError { skip, refuse };
inline auto enum_names(OnError) {
  return config::names<OnError>({{OnError::skip, "skip"}, {OnError::refuse, "refuse"}});
}

/// Files that are drawn from together, with one weight in the mix.
struct SourceConfig {
  std::string name;                // unique; keys the source's shuffling
  std::vector<std::string> paths;  // globs, relative to the working directory
  SourceFormat format = SourceFormat::automatic;
  std::string text_field = "text";             // jsonl: the top-level field that holds a document's text
  double weight = 1.0;                         // share of the tokens, relative to the other sources' weights
  int64_t min_tokens = 0;                      // shorter documents are left out (counted without BOS and EOS)
  std::optional<int64_t> upsample_min_tokens;  // documents from this length on ...
  double upsample_factor = 1.0;                // ... come this many times in an epoch; a fraction by chance
  std::optional<int64_t> separator;  // u16, u32: the token that ends a document; absent: a file is one document

  void fields(config::Fields& f);
  void check(config::Checker& c) const;
};

/// Training steps whose batches are left out; see Loader.
struct SkipRange {
  int64_t from_step = 1;
  int64_t to_step = 1;

  void fields(config::Fields& f);
  void check(config::Checker& c) const;
};

struct DataConfig {
  std::string tokenizer;          // sentencepiece model; empty: the tokenizer.model in model.path
  int64_t context_length = 4096;  // tokens of a row
  std::vector<SourceConfig> sources;
  int64_t shuffle_tokens = 1 << 23;  // documents are shuffled over a run of this many tokens; 0: not at all
  bool bos = true;                   // BOS before each document
  bool eos = true;                   // EOS after each document
  std::optional<int64_t> bos_id;     // instead of the tokenizer's
  std::optional<int64_t> eos_id;     // instead of the tokenizer's
  bool document_masking = false;     // attention stays inside a document; its first token is no label
  OnError on_error = OnError::skip;
  std::string cache = "runs/token_shards";  // folder of token shards, shared by runs
  int64_t tokenizer_threads = 0;            // background encoders of a process; 0: one per core
  std::vector<SkipRange> skip;
  int64_t max_line_bytes = int64_t{1} << 30;  // a longer line (or txt file) is not read

  void fields(config::Fields& f);
  void check(config::Checker& c) const;
};

}  // namespace dga

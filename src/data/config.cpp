#include "data/config.h"

#include <set>

namespace dga {

void SourceConfig::fields(config::Fields& f) {
  f.field("name", name, "unique name of the source; keys its shuffling");
  f.field("paths", paths, "files or globs, relative to the working directory");
  f.field("format", format, "what the files hold; auto goes by the name's ending, after .zst or .gz");
  f.field("text_field", text_field, "jsonl: the top-level field that holds a document's text");
  f.field("weight", weight, "share of the tokens, relative to the other sources' weights", config::above(0));
  f.field("min_tokens", min_tokens, "documents with fewer tokens are left out", config::at_least(0));
  f.field("upsample_min_tokens", upsample_min_tokens, "documents with at least this many tokens are upsampled",
          config::at_least(1));
  f.field("upsample_factor", upsample_factor,
          "how often such a document comes in an epoch; a fraction by chance, 0 never", config::between(0, 1000));
  f.field("separator", separator, "u16, u32: the token that ends a document; without it a file is one document",
          config::between(0, 4294967295.0));
}

void SourceConfig::check(config::Checker& c) const {
  c.require(!name.empty(), "name", "a source needs a name");
  c.require(!paths.empty(), "paths", "a source needs at least one file or glob");
  c.require(!text_field.empty(), "text_field", "the field's name is empty");
  c.require(upsample_factor == 1.0 || upsample_min_tokens, "upsample_factor",
            "has no effect without upsample_min_tokens");
  c.require(!separator || (format != SourceFormat::jsonl && format != SourceFormat::txt), "separator",
            "only token bins (u16, u32) have a separator");
}

void SkipRange::fields(config::Fields& f) {
  f.field("from_step", from_step, "first step whose batch is left out; steps count from 1", config::at_least(1));
  f.field("to_step", to_step, "first step after it whose batch is used again", config::at_least(1));
}

void SkipRange::check(config::Checker& c) const {
  c.require(to_step > from_step, "to_step", str("must be greater than from_step, ", from_step, "; got ", to_step));
}

void DataConfig::fields(config::Fields& f) {
  f.field("tokenizer", tokenizer, "sentencepiece model; by default tokenizer.model in model.path");
  f.field("context_length", context_length, "tokens of a row", config::between(1, 1 << 30));
  f.list("sources", sources, "what is trained on");
  f.field("shuffle_tokens", shuffle_tokens,
          "documents are shuffled over runs of this many tokens; 0: order of the file", config::at_least(0));
  f.field("bos", bos, "BOS before each document");
  f.field("eos", eos, "EOS after each document");
  f.field("bos_id", bos_id, "the BOS token, if not the tokenizer's", config::between(0, 2147483647));
  f.field("eos_id", eos_id, "the EOS token, if not the tokenizer's", config::between(0, 2147483647));
  f.field("document_masking", document_masking, "attention stays inside a document, whose first token is no label");
  f.field("on_error", on_error, "unusable lines and files: leave them out and count them, or end the run");
  f.field("cache", cache, "folder of token shards; runs may share it");
  f.field("tokenizer_threads", tokenizer_threads, "background tokenizer threads; 0: one per core",
          config::between(0, 1024));
  f.list("skip", skip, "steps whose batches are left out, in step numbers of the log");
  f.field("max_line_bytes", max_line_bytes, "longer lines (txt: files) are not read", config::at_least(1));
}

void DataConfig::check(config::Checker& c) const {
  std::set<std::string> names;
  for (const SourceConfig& source : sources) {
    c.require(names.insert(source.name).second, "sources", str("two sources are named \"", source.name, "\""));
  }
  c.require(!cache.empty(), "cache", "token shards need a folder");
  for (size_t i = 1; i < skip.size(); ++i) {
    c.require(skip[i].from_step > skip[i - 1].from_step, "skip", "ranges must be in increasing order of from_step");
  }
}

}  // namespace dga

#include "eval/config.h"

#include <algorithm>

namespace dga {
namespace {

constexpr int64_t kDefaultStride = 256;  // of LongLoRA, PI and YaRN alike

}  // namespace

void RetrievalConfig::fields(config::Fields& f) {
  f.field("lengths", lengths, "tokens of a prompt; empty: eval.context_lengths, or data.context_length",
          config::at_least(16));
  f.field("samples", samples, "prompts of each length", config::at_least(1));
  f.field("seed", seed, "seed of what is hidden and where", config::at_least(0));
}

void EvalConfig::fields(config::Fields& f) {
  f.field("every_steps", every_steps, "evaluate every so many training steps; 0: never", config::at_least(0));
  f.list("sources", sources,
         "held-out text, in the order of the files; several sources take turns by tokens, without weights");
  f.field("protocol", protocol,
          "sliding: windows move by stride and only tokens not scored before count (PI, YaRN); longlora: full windows "
          "start every stride tokens and all their tokens count, a last short window is dropped");
  f.field("context_lengths", context_lengths,
          "window lengths in tokens, each over the same text; empty: data.context_length", config::at_least(2));
  f.field("stride", stride, "tokens from one window to the next; absent: 256, or the context length if that is less",
          config::at_least(1));
  f.field("per_document", per_document,
          "windows stay inside a document, and the mean over documents of their perplexities is reported too; "
          "otherwise all documents form one stream");
  f.field("min_document_tokens", min_document_tokens, "leave out shorter documents (counted without BOS and EOS)",
          config::at_least(0));
  f.field("max_documents", max_documents, "stop after so many documents; 0: all", config::at_least(0));
  f.field("max_tokens", max_tokens, "stop after so many tokens, cutting the last document; 0: all",
          config::at_least(0));
  f.field("max_document_tokens", max_document_tokens, "cut longer documents to so many tokens, BOS included; 0: never",
          config::at_least(0));
  f.field("truncate_to_context", truncate_to_context,
          "cut every document at the context length, so that it is one window (YaRN); needs per_document");
  f.field("bos", bos, "put BOS before every document; it counts towards the context length");
  f.field("eos", eos, "put EOS after every document that is not cut");
  f.field("batch_tokens", batch_tokens, "tokens in one forward pass (at least one window)", config::at_least(1));
  f.field(
      "position_buckets", position_buckets,
      "stretches of equal length that the context is cut into for NLL by position; under sliding with a short stride "
      "most tokens are scored near the end of a window",
      config::at_least(1));
  f.section("retrieval", retrieval, "generated prompts of `dga eval --task passkey` and `--task kv_retrieval`");
}

void EvalConfig::check(config::Checker& c) const {
  for (const int64_t length : context_lengths) {
    c.require(!stride || *stride <= length, "stride",
              str("a stride of ", stride.value_or(0), " leaves gaps between windows of ", length,
                  " tokens; at most the context length"));
  }
  c.require(!truncate_to_context || per_document, "truncate_to_context", "needs per_document: true");
  const int64_t longest = context_lengths.empty() ? 0 : *std::ranges::max_element(context_lengths);
  c.require(!truncate_to_context || min_document_tokens >= longest, "min_document_tokens",
            str("truncate_to_context compares lengths over the same documents, so each must have at least ", longest,
                " tokens"));
  c.require(max_document_tokens == 0 || max_document_tokens >= 2, "max_document_tokens",
            "must be 0 or at least 2: one token has nothing before it");
}

int64_t EvalConfig::stride_for(int64_t context_length) const {
  return stride.value_or(std::min(kDefaultStride, context_length));
}

}  // namespace dga

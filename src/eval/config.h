#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "config/fields.h"
#include "data/config.h"

namespace dga {

/// How windows are laid over the text and which of their tokens count; see windows.h.
enum class EvalProtocol { sliding, longlora };
inline auto enum_names(EvalProtocol) {
  return config::names<EvalProtocol>({{EvalProtocol::sliding, "sliding"}, {EvalProtocol::longlora, "longlora"}});
}

/// Exact match on generated prompts: passkey and key-value retrieval (see retrieval_prompts.h).
struct RetrievalConfig {
  std::vector<int64_t> lengths;  // tokens of a prompt; empty: the context lengths
  int64_t samples = 50;          // prompts of each length
  int64_t seed = 1;

  void fields(config::Fields& f);
};

/// Perplexity on held-out text: what text, which protocol, which context lengths.
struct EvalConfig {
  int64_t every_steps = 0;            // evaluation inside training; 0: none
  std::vector<SourceConfig> sources;  // held-out text; several take turns by tokens
  EvalProtocol protocol = EvalProtocol::sliding;
  std::vector<int64_t> context_lengths;  // each evaluated over the same text; empty: data.context_length
  std::optional<int64_t> stride;         // tokens from one window to the next; absent: 256, or a shorter context
  bool per_document = false;             // every document on its own instead of one concatenated stream
  int64_t min_document_tokens = 0;       // shorter documents are left out; counted without BOS and EOS
  int64_t max_documents = 0;             // 0: all
  int64_t max_tokens = 0;                // of the whole text, the last document is cut; 0: all
  int64_t max_document_tokens = 0;       // a longer document is cut there; 0: never
  bool truncate_to_context = false;      // cut each document at the context length: one window each
  bool bos = true;                       // BOS before every document; inside the context length
  bool eos = true;                       // EOS after every document that is not cut
  int64_t batch_tokens = 16384;          // tokens of one forward pass, at least one window
  int64_t position_buckets = 32;         // equal stretches of the context for NLL by position
  RetrievalConfig retrieval;

  void fields(config::Fields& f);
  void check(config::Checker& c) const;

  /// The distance between windows of `context_length` tokens.
  int64_t stride_for(int64_t context_length) const;
};

}  // namespace dga

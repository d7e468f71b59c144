#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "eval/config.h"
#include "eval/nll_sums.h"
#include "eval/progress.h"
#include "eval/rounds.h"
#include "eval/text.h"
#include "model/llama.h"

namespace dga {

/// Rows of equal length that one forward pass scores.
struct WindowBatch {
  at::Tensor tokens;                 // [B, L] int64 on the CPU
  std::vector<int64_t> first_token;  // per row: its first token's number in the text; keys random selection
  int64_t first_scored = 1;          // positions before it are context only; at least 1
};

/// Log-probabilities [B, L - first_scored], on the CPU, of the tokens from first_scored on given all before them in the
/// row.
using WindowScorer = std::function<at::Tensor(const WindowBatch&)>;

/// The scorer of a model: one pass without gradients, logits only of scored positions and never all at once.
/// The model must outlive it.
WindowScorer model_scorer(const Llama& model);

/// Tokens with `begin` to `end` - 1 tokens before them in their window.
struct PositionResult {
  int64_t begin = 0;
  int64_t end = 0;
  NllSum sum;
};

/// One context length of a result. NLL is in nats.
struct LengthResult {
  int64_t context_length = 0;
  int64_t stride = 0;
  int64_t windows = 0;
  int64_t tokens_scored = 0;       // a token counts as often as it was scored
  double nll = 0.0;                // mean over scored tokens
  double perplexity = 0.0;         // exp(nll)
  std::optional<double> nll_ci95;  // nll +- this; see ratio_ci95
  std::vector<PositionResult> by_position;
  std::optional<double> document_perplexity_mean;  // per_document: mean over documents of exp(the document's nll)
  int64_t documents_scored = 0;                    // sequences with at least one scored token
  std::optional<double> bits_per_byte;             // absent without a tokenizer
  std::optional<double> visible_pairs_per_token;   // mean over the layers, one head, at the full context length
  double seconds = 0.0;
};

/// Perplexity of one model over one text at several context lengths.
struct EvalResult {
  EvalProtocol protocol = EvalProtocol::sliding;
  bool per_document = false;
  bool truncate_to_context = false;
  std::string attention;  // see attention_label
  nlohmann::json attention_settings;
  bool looks_ahead = false;  // scores used later tokens: not the perplexity of decoding
  int64_t text_documents = 0;
  int64_t text_tokens = 0;
  std::optional<int64_t> text_bytes;
  TextEntropy entropy;
  std::vector<LengthResult> lengths;
};

/// Evaluates `text` at each context length with any scorer. `token_bytes` (per id) may be empty. The ranks call it
/// together, share the passes out and get the same result, bit for bit that of one process. Throws a config error where
/// a window does not fit the text anywhere, a numerics error for a log-probability that is no finite number. `progress`
/// goes on where an earlier call stopped, to the same bits.
EvalResult evaluate_perplexity(const WindowScorer& scorer, const EvalConfig& config, const EvalText& text,
                               const std::vector<int32_t>& token_bytes, const EvalRanks& ranks, EvalProgress& progress);

/// The same for a model, with its attention's description, visible pairs and whether it looks ahead.
/// `config.context_lengths` must not be empty. Token ids beyond the vocabulary are an input error.
EvalResult evaluate_perplexity(const Llama& model, const AttentionConfig& attention, const EvalConfig& config,
                               const EvalText& text, const std::vector<int32_t>& token_bytes, Communicator& ranks,
                               EvalProgress& progress);

}  // namespace dga

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "eval/nll_sums.h"
#include "eval/progress.h"
#include "eval/retrieval_prompts.h"
#include "eval/rounds.h"
#include "model/llama.h"

namespace dga {

/// The most probable next tokens [B, L - first] int64 on the CPU after positions first .. L - 1 of tokens [B, L].
using NextTokens = std::function<at::Tensor(const at::Tensor& tokens, int64_t first)>;

/// Those of a model, which must outlive them.
NextTokens model_next_tokens(const Llama& model);

/// How a model is asked for the answer. Both tell what greedy decoding would, since an answer is right only if each of
/// its tokens is the most probable one after the right ones before it.
enum class Asking {
  at_once,        // prompt and answer in one pass: for attention that never looks ahead
  token_by_token  // a pass over the prompt for each token of the answer, so that no pass holds what it is to find
};

struct DepthResult {
  double begin = 0, end = 0;  // shares of the prompt
  int64_t samples = 0;
  int64_t matches = 0;
};

struct RetrievalResult {
  int64_t length = 0;
  int64_t samples = 0;
  int64_t matches = 0;  // answers found whole
  double mean_prompt_tokens = 0;
  double mean_items = 0;  // pairs of kv_retrieval
  std::vector<DepthResult> by_depth;
};

/// Prompts of every length (config.lengths, not empty), in passes of at most `batch_tokens` tokens or one prompt. The
/// ranks call it together, share the passes out and get the same results; `progress` goes on where an earlier call
/// stopped.
std::vector<RetrievalResult> evaluate_retrieval(const NextTokens& next, Asking asking, RetrievalTask task,
                                                const Tokenizer& tokenizer, const RetrievalConfig& config,
                                                int64_t batch_tokens, const EvalRanks& ranks, EvalProgress& progress);

/// {"task", "seed", "results": [{"length", "samples", "exact_match", "ci95", ...}]}
nlohmann::json retrieval_json(RetrievalTask task, const RetrievalConfig& config,
                              const std::vector<RetrievalResult>& results);

/// A row a length, for the terminal; takes what retrieval_json() gives, with "attention" and "looks_ahead" added.
std::string retrieval_table(const nlohmann::json& result);

}  // namespace dga

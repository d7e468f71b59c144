#pragma once

#include <memory>
#include <vector>

#include "dist/communicator.h"
#include "eval/perplexity.h"

namespace dga {

inline Communicator& alone() {
  static const std::unique_ptr<Communicator> ranks = make_single_communicator();
  return *ranks;
}

/// evaluate_perplexity() of one process.
inline EvalResult evaluate_alone(const WindowScorer& scorer, const EvalConfig& config, const EvalText& text,
                                 const std::vector<int32_t>& token_bytes, EvalProgress progress = {}) {
  return evaluate_perplexity(scorer, config, text, token_bytes, {alone()}, progress);
}
inline EvalResult evaluate_alone(const Llama& model, const AttentionConfig& attention, const EvalConfig& config,
                                 const EvalText& text, const std::vector<int32_t>& token_bytes) {
  EvalProgress progress;
  return evaluate_perplexity(model, attention, config, text, token_bytes, alone(), progress);
}

}  // namespace dga

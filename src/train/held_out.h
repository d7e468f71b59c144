#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <vector>

#include "data/tokenizer.h"
#include "dist/communicator.h"
#include "eval/text.h"
#include "model/llama.h"
#include "run/run_config.h"

namespace dga {

/// Perplexity on eval.sources between training steps.
class HeldOutEvaluation {
 public:
  /// `tokenizer` may be null for token bins. The text is read when the first evaluation runs, and kept.
  HeldOutEvaluation(const RunConfig& config, std::shared_ptr<const Tokenizer> tokenizer,
                    const std::filesystem::path& run_folder);

  /// Evaluates the model, the ranks together; rank 0 writes eval/step-N.json and logs a line for each context length.
  /// Returns what metrics.jsonl gets: an array of {context_length, nll, perplexity, tokens_scored, looks_ahead}.
  nlohmann::json run(const Llama& model, int64_t step, Communicator& ranks);

 private:
  EvalConfig eval_;
  DataConfig data_;
  AttentionConfig attention_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::filesystem::path folder_;
  std::optional<EvalText> text_;
};

}  // namespace dga

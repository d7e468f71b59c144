#include "train/held_out.h"

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "dist/together.h"
#include "eval/perplexity.h"
#include "eval/report.h"
#include "util/file.h"
#include "util/log.h"

namespace dga {

namespace {

nlohmann::json summary_of(const EvalResult& result) {
  nlohmann::json summary = nlohmann::json::array();
  for (const LengthResult& length : result.lengths) {
    summary.push_back({{"context_length", length.context_length},
                       {"nll", length.nll},
                       {"perplexity", length.perplexity},
                       {"tokens_scored", length.tokens_scored},
                       {"looks_ahead", result.looks_ahead}});
  }
  return summary;
}

}  // namespace

HeldOutEvaluation::HeldOutEvaluation(const RunConfig& config, std::shared_ptr<const Tokenizer> tokenizer,
                                     const std::filesystem::path& run_folder)
    : eval_(config.eval),
      data_(config.data),
      attention_(config.attention),
      tokenizer_(std::move(tokenizer)),
      folder_(run_folder / "eval") {
  if (eval_.context_lengths.empty()) eval_.context_lengths = {data_.context_length};
}

nlohmann::json HeldOutEvaluation::run(const Llama& model, int64_t step, Communicator& ranks) {
  const at::NoGradGuard no_grad;
  if (!text_) text_ = read_eval_text(eval_, data_, tokenizer_);
  const std::vector<int32_t> token_bytes = tokenizer_ ? token_byte_table(*tokenizer_) : std::vector<int32_t>();
  EvalProgress nothing_kept;
  const EvalResult result = evaluate_perplexity(model, attention_, eval_, *text_, token_bytes, ranks, nothing_kept);
  run_on_first(ranks, str("held_out/step-", step), [&] {
    nlohmann::json document = eval_json(result);
    document["step"] = step;
    std::filesystem::create_directories(folder_);
    write_file_atomic(folder_ / str("step-", step, ".json"), document.dump(2) + "\n");
    for (const LengthResult& length : result.lengths) {
      log::info("step ", step, "  held out: context ", length.context_length, "  nll ", length.nll, "  perplexity ",
                length.perplexity, result.looks_ahead ? "  (looks ahead)" : "");
    }
  });
  return summary_of(result);
}

}  // namespace dga

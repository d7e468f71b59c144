#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>

#include "apps/apps.h"
#include "apps/ranks.h"
#include "eval/run_model.h"
#include "eval/score.h"
#include "model/hf_config.h"
#include "util/log.h"
#include "util/signals.h"

namespace dga {
namespace {

struct ScoreAppOptions {
  std::string model;
  std::string input;
  std::string output;
  int64_t context = 0;
  int64_t gpus = 0;
  std::vector<std::string> assignments;
};

/// A text needs the tokenizer of the model's folder; a bin does not.
ScoreInput open_input(const ScoreAppOptions& options) {
  if (std::filesystem::path(options.input).extension() != ".txt") return ScoreInput(options.input);
  const std::filesystem::path tokenizer = find_tokenizer(options.model);
  DGA_CHECK_INPUT(!tokenizer.empty(), options.model, ": no tokenizer.model, so ", options.input,
                  " cannot be tokenised; token bins (.u16, .u32) need none");
  return ScoreInput(options.input, Tokenizer(tokenizer));
}

/// fp32 on the CPU unless --set says otherwise.
LoadedRun load_scoring(const ScoreAppOptions& options) {
  std::vector<std::string> assignments = model_folder_assignments(options.model);
  assignments.emplace_back("run.device=cpu");
  assignments.insert(assignments.end(), options.assignments.begin(), options.assignments.end());
  return load_run("", assignments);
}

ExitCode run_score(const ScoreAppOptions& options, Communicator& ranks) {
  install_stop_signals();
  if (options.context < 1) fail(ExitCode::usage, "--context must be at least 1 token, got ", options.context);
  const LoadedRun run = load_scoring(options);
  ranks.set_time_limit(std::chrono::seconds(run.config.parallel.timeout_seconds));
  const ScoreInput input = open_input(options);
  const Llama model = load_run_model(run, ranks);
  const ScoreOptions score{options.context, run.config.eval.batch_tokens, model.config().vocab_size};
  score_file(model_scorer(model), input, score, {ranks, model.device()}, options.output);
  log::info("scored ", input.size(), " tokens in windows of ", options.context, " into ", options.output,
            model.looks_ahead() ? " (looks ahead: the attention's rule uses later tokens)" : "");
  return ExitCode::ok;
}

}  // namespace

void add_score_app(CLI::App& root, AppContext& context) {
  CLI::App* app = root.add_subcommand("score", "Write the log-probability of every token of a file.");
  auto options = std::make_shared<ScoreAppOptions>();
  app->add_option("--model", options->model, "Hugging Face folder")->required();
  app->add_option("--input", options->input,
                  "flat little-endian token bin (.u16, .u32), or text (.txt) for the folder's tokenizer.model, without "
                  "BOS and EOS")
      ->required();
  app->add_option("--context", options->context,
                  "tokens of a window; consecutive windows are independent sequences, the last may be shorter")
      ->required();
  app->add_option("--out", options->output,
                  "float32 file, one value a token, in nats; NaN where nothing precedes a token in its window")
      ->required();
  add_set_option(*app, options->assignments);
  app->footer(
      "The attention is the one recorded in the folder unless --set attention.* changes it. fp32 on the CPU "
      "unless --set run.device or train.dtype says otherwise.");
  add_gpus_option(*app, options->gpus);
  app->callback([options, &context] {
    context.action = [options, &context] {
      RankedAction action;
      action.device = [&] { return load_scoring(*options).config.run.device; };
      action.work = [&](Communicator& ranks) { return run_score(*options, ranks); };
      return run_on_ranks(context, options->gpus, action);
    };
  });
}

}  // namespace dga

#include <CLI/CLI.hpp>
#include <iostream>

#include "apps/apps.h"
#include "decode/generate.h"
#include "decode/text_stream.h"
#include "eval/run_model.h"
#include "util/file.h"
#include "util/log.h"

namespace dga {
namespace {

struct GenerateAppOptions {
  std::string model;
  std::string prompt;
  std::string prompt_file;
  GenerateOptions generate;
  std::vector<std::string> assignments;
};

/// Refuses rules that cannot decode before any weight is read.
void check_decoding(const LoadedRun& run) {
  for (int64_t layer = 0; layer < run.model.num_hidden_layers; ++layer) {
    const std::string obstacle = decoding_obstacle(run.config.attention, kind_of_layer(run.config.attention, layer));
    if (!obstacle.empty()) fail(ExitCode::config, "generate: layer ", layer, ": ", obstacle);
  }
}

std::vector<int32_t> encode_prompt(const GenerateAppOptions& options, const LoadedRun& run,
                                   const Tokenizer& tokenizer) {
  const std::string text = options.prompt_file.empty() ? options.prompt : read_file(options.prompt_file);
  std::vector<int32_t> tokens = tokenizer.encode(text);
  if (run.config.data.bos && tokenizer.bos_id() >= 0) tokens.insert(tokens.begin(), tokenizer.bos_id());
  return tokens;
}

ExitCode run_generate(const GenerateAppOptions& options) {
  check_sampling(options.generate.sampling);
  std::vector<std::string> assignments = model_folder_assignments(options.model);
  assignments.insert(assignments.end(), options.assignments.begin(), options.assignments.end());
  const LoadedRun run = load_run("", assignments);
  check_decoding(run);
  const std::shared_ptr<const Tokenizer> tokenizer = load_run_tokenizer(run.config);
  DGA_CHECK_INPUT(tokenizer != nullptr, options.model, ": no tokenizer.model; name one with --set data.tokenizer=PATH");
  const std::vector<int32_t> prompt = encode_prompt(options, run, *tokenizer);
  if (run.config.attention.backend == AttentionBackend::kernel) {
    fail(ExitCode::config, "attention.backend: there are no CUDA kernels for decoding yet; use auto");
  }
  const Llama model = load_run_model(run);
  if (model.device().is_cuda()) log::info("decoding uses LibTorch's operations; there are no kernels for it yet");
  GenerateOptions generation = options.generate;
  generation.stop_tokens = model.config().eos_token_id;
  if (tokenizer->eos_id() >= 0) generation.stop_tokens.push_back(tokenizer->eos_id());
  TextStream stream(*tokenizer, prompt);
  generate(model, prompt, generation, [&](int32_t token) { std::cout << stream.push(token) << std::flush; });
  std::cout << stream.finish() << std::endl;
  DGA_CHECK(std::cout.good(), "cannot write to standard output");
  return ExitCode::ok;
}

}  // namespace

void add_generate_app(CLI::App& root, AppContext& context) {
  CLI::App* app = root.add_subcommand("generate", "Continue a text, printed as it is decoded (without the prompt).");
  auto options = std::make_shared<GenerateAppOptions>();
  SamplingOptions& sampling = options->generate.sampling;
  app->add_option("--model", options->model, "Hugging Face folder with a tokenizer.model")->required();
  CLI::Option_group* prompt = app->add_option_group("prompt");
  prompt->add_option("--prompt", options->prompt, "text to continue");
  prompt->add_option("--prompt-file", options->prompt_file, "file that holds it");
  prompt->require_option(1);
  app->add_option("--max-new-tokens", options->generate.max_new_tokens, "stop after so many tokens, or at EOS")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app->add_option("--temperature", sampling.temperature, "divides the logits; 0: always the most probable token")
      ->capture_default_str();
  app->add_option("--top-p", sampling.top_p, "draw from the most probable tokens that together reach this probability")
      ->capture_default_str();
  app->add_option("--top-k", sampling.top_k, "draw from the k most probable tokens; 0: all")->capture_default_str();
  app->add_option("--seed", sampling.seed, "of the draws")->capture_default_str();
  add_set_option(*app, options->assignments);
  app->footer(
      "Needs attention that can decode: full, streaming, lm_infinite, longformer, or dga with selection causal.");
  app->callback([options, &context] { context.action = [options] { return run_generate(*options); }; });
}

}  // namespace dga

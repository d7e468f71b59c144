#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/apps.h"
#include "apps/ranks.h"
#include "checkpoint/reader.h"
#include "data/source_files.h"
#include "dist/together.h"
#include "eval/attention_label.h"
#include "eval/perplexity.h"
#include "eval/report.h"
#include "eval/retrieval.h"
#include "eval/run_model.h"
#include "model/attention_record.h"
#include "run/build_info.h"
#include "util/file.h"
#include "util/hash.h"
#include "util/log.h"
#include "util/signals.h"

namespace dga {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kPerplexity = "perplexity";

struct EvalAppOptions {
  std::string config;
  std::string task = kPerplexity;
  std::string model;
  std::string output;
  std::vector<std::string> beside;
  int64_t gpus = 0;
  std::vector<std::string> assignments;
};

/// The folder that holds the weights: --model, else the run's newest complete checkpoint, else model.path.
fs::path find_weights(const EvalAppOptions& options, const fs::path& config_file, Communicator& ranks) {
  if (!options.model.empty()) return options.model;
  const RunConfig config = load_run(config_file, options.assignments).config;
  const fs::path checkpoints = config.run.path() / "checkpoints";
  if (const auto checkpoint = newest_complete_checkpoint(checkpoints, ranks, "eval/checkpoint"))
    return checkpoint->path;
  DGA_CHECK_INPUT(!config.model.path.empty(), "no complete checkpoint in ", checkpoints.string(),
                  "; train first, or name the weights with --model");
  return config.model.path;
}

fs::path config_file_of(const EvalAppOptions& options) {
  const fs::path given = options.config;
  return fs::is_directory(given) ? given / "config.yaml" : given;
}

LoadedRun load_evaluation(const EvalAppOptions& options, Communicator& ranks) {
  const fs::path config_file = config_file_of(options);
  std::vector<std::string> assignments = model_folder_assignments(find_weights(options, config_file, ranks));
  assignments.insert(assignments.end(), options.assignments.begin(), options.assignments.end());
  LoadedRun run = load_run(config_file, assignments);
  std::vector<int64_t>& lengths = run.config.eval.context_lengths;
  for (const std::string& warning : run.warnings) {
    if (lengths.empty() || warning.starts_with("eval.")) log::warning(warning);  // others are about training
  }
  if (lengths.empty()) lengths = {run.config.data.context_length};
  return run;
}

/// What every result says of the model and the program.
void describe(const LoadedRun& run, const Llama& model, const Tokenizer* tokenizer, json& result) {
  result["weights"] = run.config.model.path;
  result["dtype"] = config::name_of(run.config.train.dtype);
  result["device"] = model.device().str();
  result["config_hash"] = run.hash;
  result["version"] = build_info().version;
  result["commit"] = build_info().commit;
  result["tokenizer"] = tokenizer != nullptr ? json(tokenizer->path().string()) : json(nullptr);
}

json evaluate(const LoadedRun& run, Communicator& ranks, EvalProgress& progress) {
  const RunConfig& config = run.config;
  const std::shared_ptr<const Tokenizer> tokenizer = load_run_tokenizer(config);
  const EvalText text = read_eval_text(config.eval, config.data, tokenizer);
  const std::vector<int32_t> token_bytes = tokenizer ? token_byte_table(*tokenizer) : std::vector<int32_t>{};
  const Llama model = load_run_model(run, ranks);
  json result =
      eval_json(evaluate_perplexity(model, config.attention, config.eval, text, token_bytes, ranks, progress));
  describe(run, model, tokenizer.get(), result);
  result["sources"] = json::array();
  for (const SourceConfig& source : config.eval.sources) {
    result["sources"].push_back({{"name", source.name}, {"paths", source.paths}});
  }
  return result;
}

json retrieve(const LoadedRun& run, RetrievalTask task, Communicator& ranks, EvalProgress& progress) {
  const RunConfig& config = run.config;
  const std::shared_ptr<const Tokenizer> tokenizer = load_run_tokenizer(config);
  if (!tokenizer) fail(ExitCode::config, "data.tokenizer: prompts are text; name a sentencepiece model");
  RetrievalConfig retrieval = config.eval.retrieval;
  if (retrieval.lengths.empty()) retrieval.lengths = config.eval.context_lengths;
  const Llama model = load_run_model(run, ranks);
  const Asking asking = model.looks_ahead() ? Asking::token_by_token : Asking::at_once;
  const std::vector<RetrievalResult> results =
      evaluate_retrieval(model_next_tokens(model), asking, task, *tokenizer, retrieval, config.eval.batch_tokens,
                         {ranks, model.device()}, progress);
  json result = retrieval_json(task, retrieval, results);
  result["attention"] = attention_label(config.attention, model.config().num_hidden_layers);
  result["attention_settings"] = attention_json(config.attention);
  result["looks_ahead"] = model.looks_ahead();
  describe(run, model, tokenizer.get(), result);
  return result;
}

/// Names an evaluation: its settings, and weights and text by the sizes and times of their files.
std::string evaluation_key(const LoadedRun& run, const std::string& task) {
  std::string text = run.hash + task + build_info().commit;
  if (const auto tokenizer = load_run_tokenizer(run.config)) text += tokenizer->hash();
  const bool reads_text = task == kPerplexity;  // prompts are made
  for (const SourceConfig& source : reads_text ? run.config.eval.sources : std::vector<SourceConfig>()) {
    for (const SourceFile& file : list_files(source)) {
      text += str("\n", file.path.string(), " ", file.size_bytes, " ", file.modified_ns);
    }
  }
  for (const auto& entry : fs::directory_iterator(run.config.model.path)) {
    if (entry.path().extension() != ".safetensors") continue;
    text += str("\n", entry.path().filename().string(), " ", entry.file_size(), " ",
                entry.last_write_time().time_since_epoch().count());
  }
  return hash_hex(text);
}

/// eval/WEIGHTS-HASH.json in the run folder, with the task's name if that is not perplexity; the hash keeps results of
/// different settings apart.
fs::path default_output(const LoadedRun& run, const std::string& task) {
  const fs::path weights = fs::weakly_canonical(run.config.model.path).filename();
  const std::string suffix = task == kPerplexity ? "" : "-" + task;
  return run.config.run.path() / "eval" / str(weights.string(), "-", run.hash.substr(0, 8), suffix, ".json");
}

std::vector<json> read_results(const std::vector<std::string>& paths) {
  std::vector<json> results;
  for (const std::string& path : paths) {
    results.push_back(json::parse(read_file(path), nullptr, /*allow_exceptions=*/false));
    DGA_CHECK_INPUT(!results.back().is_discarded(), path, ": not JSON");
  }
  if (!results.empty()) eval_table(results);  // refuses files that are no results before the work begins
  return results;
}

void print_result(const json& result, std::vector<json> beside, bool is_retrieval) {
  if (is_retrieval) {
    std::fputs(retrieval_table(result).c_str(), stdout);
    return;
  }
  beside.push_back(result);
  std::printf("%s%s\n", eval_table(beside).c_str(), eval_text_line(result).c_str());
}

ExitCode run_eval(const EvalAppOptions& options, Communicator& ranks) {
  install_stop_signals();
  const std::optional<RetrievalTask> task = config::value_named<RetrievalTask>(options.task);
  if (task && !options.beside.empty()) fail(ExitCode::usage, "--beside takes results of perplexity; leave it out");
  const std::vector<json> beside = read_results(options.beside);
  const LoadedRun run = load_evaluation(options, ranks);
  ranks.set_time_limit(std::chrono::seconds(run.config.parallel.timeout_seconds));
  const fs::path output = options.output.empty() ? default_output(run, options.task) : fs::path(options.output);
  run_on_first(ranks, "eval/folder", [&] {
    if (output.has_parent_path()) fs::create_directories(output.parent_path());
  });
  EvalProgress progress(output.string() + ".partial", evaluation_key(run, options.task), ranks);
  const json result = task ? retrieve(run, *task, ranks, progress) : evaluate(run, ranks, progress);
  run_on_first(ranks, "eval/result", [&] {
    write_file_atomic(output, result.dump(2) + "\n");
    progress.finish();
    print_result(result, beside, task.has_value());
  });
  log::info("written to ", output.string());
  return ExitCode::ok;
}

}  // namespace

void add_eval_app(CLI::App& root, AppContext& context) {
  CLI::App* app = root.add_subcommand("eval", "Perplexity on held-out text, or retrieval, by context length.");
  auto options = std::make_shared<EvalAppOptions>();
  app->add_option("config", options->config, "YAML file of a run, or a run folder; --set alone can describe one too");
  app->add_option("--model", options->model,
                  "Hugging Face folder or checkpoint to evaluate instead of the run's newest complete checkpoint");
  app->add_option("--output", options->output, "where the JSON goes; default: eval/ in the run folder");
  app->add_option("--beside", options->beside, "earlier results (JSON) to print in the same table");
  app->add_option("--task", options->task, "perplexity, passkey or kv_retrieval")
      ->check(CLI::IsMember({kPerplexity, "passkey", "kv_retrieval"}))
      ->capture_default_str();
  add_set_option(*app, options->assignments);
  app->footer(
      "An evaluation that is stopped goes on with the same command. Section eval of the config names text, protocol "
      "and lengths. The attention is the config's, or the one "
      "recorded in the model's folder. Results under the global rule are marked \"looks ahead\".");
  add_gpus_option(*app, options->gpus);
  app->callback([options, &context] {
    context.action = [options, &context] {
      RankedAction action;
      action.device = [&] { return load_run(config_file_of(*options), options->assignments).config.run.device; };
      action.work = [&](Communicator& ranks) { return run_eval(*options, ranks); };
      return run_on_ranks(context, options->gpus, action);
    };
  });
}

}  // namespace dga

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "apps/apps.h"
#include "apps/ranks.h"
#include "bench/train_bench.h"
#include "run/build_info.h"
#include "util/file.h"
#include "util/log.h"

namespace dga {
namespace {

struct BenchTrainOptions {
  std::string config;
  std::vector<std::string> assignments;
  TrainBenchOptions bench;
  std::string json;
  int64_t gpus = 0;
};

LoadedRun load_bench(const BenchTrainOptions& options) {
  return load_run(options.config, options.assignments, RunUse::training);
}

ExitCode run_bench_train(const BenchTrainOptions& options, Communicator& ranks) {
  const LoadedRun run = load_bench(options);
  log::set_level(run.config.log.level);
  const TrainBenchResult result = bench_train(run, options.bench, ranks);
  if (!ranks.is_first()) return ExitCode::ok;
  std::fputs(train_bench_text(result).c_str(), stdout);
  if (!options.json.empty()) write_file_atomic(options.json, train_bench_json(result, build_info().commit));
  return ExitCode::ok;
}

}  // namespace

void add_bench_train(CLI::App& bench, AppContext& context) {
  CLI::App* app = bench.add_subcommand("train", "Time training steps of a config; nothing is saved.");
  auto options = std::make_shared<BenchTrainOptions>();
  app->add_option("config", options->config, "YAML file of the run; --set alone can describe one too");
  add_set_option(*app, options->assignments);
  app->add_option("--steps", options->bench.steps, "measured steps")->capture_default_str()->check(CLI::PositiveNumber);
  app->add_option("--warmup", options->bench.warmup_steps, "steps before them")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app->add_flag("--profile", options->bench.profile, "GPU: profile one more step, kernel by kernel");
  app->add_option("--json", options->json, "write the result to this file")->type_name("FILE");
  app->footer(
      "Prints tokens/s, MFU, the device's time by phase and peak memory beside what `dga config` predicts for the "
      "card. "
      "Without model.path the weights are random; the text is the config's own.");
  add_gpus_option(*app, options->gpus);
  app->callback([options, &context] {
    context.action = [options, &context] {
      RankedAction action;
      action.device = [&] { return load_bench(*options).config.run.device; };
      action.work = [&](Communicator& ranks) { return run_bench_train(*options, ranks); };
      return run_on_ranks(context, options->gpus, action);
    };
  });
}

}  // namespace dga

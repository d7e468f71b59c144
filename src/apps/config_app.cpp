#include <CLI/CLI.hpp>
#include <cinttypes>
#include <cstdio>

#include "apps/apps.h"
#include "config/load.h"
#include "run/run_config.h"

namespace dga {
namespace {

struct ConfigOptions {
  std::string file;
  std::vector<std::string> assignments;
  bool reference = false;
};

/// 1234567 as "1,234,567".
std::string grouped(int64_t number) {
  std::string text = std::to_string(number);
  for (auto i = static_cast<int64_t>(text.size()) - 3; i > 0; i -= 3) text.insert(static_cast<size_t>(i), ",");
  return text;
}

std::string rounded(const char* format, double number) {
  char text[64];
  std::snprintf(text, sizeof(text), format, number);
  return text;
}

/// Query-key pairs a token that one head computes, summed over the layers.
struct Pairs {
  double visible = 0;
  double dense = 0;
};

Pairs pairs_per_token(const LoadedRun& run, int64_t length) {
  Pairs pairs;
  for (int64_t layer = 0; layer < run.model.num_hidden_layers; ++layer) {
    const AttentionConfig& attention = run.config.attention;
    pairs.visible += visible_pairs(attention, kind_of_layer(attention, layer), length) / static_cast<double>(length);
    pairs.dense += visible_pairs(attention, AttentionKind::full, length) / static_cast<double>(length);
  }
  return pairs;
}

/// What the settings amount to, as YAML comments below the config.
std::string summary(const LoadedRun& run) {
  const int64_t length = run.config.data.context_length;
  const Pairs pairs = pairs_per_token(run, length);
  const int64_t step_tokens = run.config.train.global_batch_size * length;
  const auto gigaflops = [&](double visible) { return rounded("%.4g", flops_per_token(run.model, visible) / 1e9); };
  const auto per_layer = [&](double sum) {
    return rounded("%.1f", sum / static_cast<double>(run.model.num_hidden_layers));
  };
  const double share = pairs.visible / pairs.dense;
  return str("# config hash            ", run.hash, "\n",                                                           //
             "# run folder             ", run.config.run.path().string(), "\n",                                     //
             "# parameters             ", grouped(run.model.parameter_count()), "\n",                               //
             "# tokens a step          ", grouped(step_tokens), "\n",                                               //
             "# tokens in all          ", grouped(step_tokens * run.config.train.steps), "\n",                      //
             "# pairs a token, layer   ", per_layer(pairs.visible), " visible; ", per_layer(pairs.dense),           //
             " dense causal (", rounded("%.3g", 100 * share), " %), at ", length, " tokens\n",                      //
             "# GFLOP a trained token  ", gigaflops(pairs.visible), " by visible pairs; ", gigaflops(pairs.dense),  //
             " by dense causal pairs\n");
}

ExitCode run_config(const ConfigOptions& options) {
  if (options.reference) {
    RunConfig defaults;
    std::fputs(config::reference([&](config::Fields& f) { defaults.fields(f); }).c_str(), stdout);
    return ExitCode::ok;
  }
  if (options.file.empty()) fail(ExitCode::usage, "config needs a FILE, or --reference; see dga config --help");
  const LoadedRun run = load_run(options.file, options.assignments, RunUse::training);
  std::fputs((run.resolved_yaml + "\n" + summary(run)).c_str(), stdout);
  for (const std::string& warning : run.warnings) std::fprintf(stderr, "warning: %s\n", warning.c_str());
  return ExitCode::ok;
}

}  // namespace

void add_config_app(CLI::App& root, AppContext& context) {
  CLI::App* app = root.add_subcommand("config", "Check a config and print it with the origin of each value.");
  auto options = std::make_shared<ConfigOptions>();
  app->add_option("file", options->file, "the run's YAML file")->type_name("FILE");
  add_set_option(*app, options->assignments);
  app->add_flag("--reference", options->reference, "print the reference of all fields as markdown instead");
  app->footer(
      "Prints the resolved config, parameters, tokens a step and FLOPs a token, and exits; nothing is written.");
  app->callback([options, &context] { context.action = [options] { return run_config(*options); }; });
}

}  // namespace dga

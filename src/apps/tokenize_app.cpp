#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "apps/apps.h"
#include "data/tokenize.h"
#include "eval/run_model.h"
#include "run/run_config.h"
#include "util/log.h"
#include "util/signals.h"
#include "util/timer.h"

namespace dga {
namespace {

struct TokenizeOptions {
  std::string config;
  std::vector<std::string> assignments;
};

std::string progress_line(const TokenizeProgress& progress, double seconds) {
  char text[160];
  std::snprintf(text, sizeof text, "tokenize: %lld of %lld files, %lld documents, %.1f M tokens, %.2f M tokens/s",
                static_cast<long long>(progress.done), static_cast<long long>(progress.files),
                static_cast<long long>(progress.documents), static_cast<double>(progress.tokens) / 1e6,
                static_cast<double>(progress.new_tokens) / 1e6 / seconds);
  return text;
}

void print_summary(const TokenizeProgress& progress, double seconds, const std::string& cache) {
  std::printf("text files   %lld, of them %lld already tokenised\n", static_cast<long long>(progress.files),
              static_cast<long long>(progress.found));
  if (progress.bins > 0) std::printf("token bins   %lld, used as they are\n", static_cast<long long>(progress.bins));
  std::printf("documents    %lld\n", static_cast<long long>(progress.documents));
  std::printf("tokens       %lld\n", static_cast<long long>(progress.tokens));
  std::printf("left out     %s\n", describe(progress.problems).c_str());
  std::printf("time         %.1f s\n", seconds);
  std::printf("shards in    %s\n", cache.c_str());
}

ExitCode run_tokenize(const TokenizeOptions& options) {
  const RunConfig config = load_run(options.config, options.assignments).config;
  std::vector<SourceConfig> sources = config.data.sources;
  sources.insert(sources.end(), config.eval.sources.begin(), config.eval.sources.end());
  if (sources.empty()) fail(ExitCode::config, options.config, ": neither data.sources nor eval.sources name any text");

  install_stop_signals();
  const Timer timer;
  const TokenizeProgress progress =
      tokenize_sources(sources, config.data, load_run_tokenizer(config), [&](const auto& now) {
        log::show_status(progress_line(now, timer.seconds()));
        return stop_signal() == 0;
      });
  log::show_status("");
  print_summary(progress, timer.seconds(), config.data.cache);
  if (stop_signal() == 0 || progress.done == progress.files) return ExitCode::ok;
  log::warning("stopped with ", progress.files - progress.done, " files left; the same command goes on there");
  return stop_code(stop_signal());
}

}  // namespace

void add_tokenize_app(CLI::App& root, AppContext& context) {
  CLI::App* app = root.add_subcommand("tokenize", "Make the token shards of a run's text ahead of time.");
  app->footer(
      "Training makes the same shards in the background; making them ahead saves the wait. Finished shards are kept:\n"
      "a command that was stopped goes on where it was.");
  auto options = std::make_shared<TokenizeOptions>();
  app->add_option("config", options->config, "the run's YAML file")->required();
  add_set_option(*app, options->assignments);
  app->callback([options, &context] { context.action = [options] { return run_tokenize(*options); }; });
}

}  // namespace dga

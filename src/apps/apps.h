#pragma once

#include <functional>
#include <string>
#include <vector>

#include "util/error.h"

namespace CLI {
class App;
}

/// The subcommands of `dga`, one file each. `add_<name>_app` declares options and a callback that sets
/// AppContext::action; main runs the action once the whole command line is known to be right.
///
///     void add_info_app(CLI::App& root, AppContext& context) {
///       CLI::App* app = root.add_subcommand("info", "...");
///       auto options = std::make_shared<InfoOptions>();   // outlives the parsing
///       app->add_flag("--json", options->json, "...");
///       app->callback([options, &context] { context.action = [options] { return run_info(*options); }; });
///     }
namespace dga {

struct AppContext {
  std::vector<std::string> command_line;  // argv, for the run folder's provenance
  std::function<ExitCode()> action;       // what the chosen subcommand does; errors leave it as exceptions
};

/// `--set section.field=value`, repeatable; for every subcommand that takes a config. The assignments go to load_run()
/// or config::Document.
void add_set_option(CLI::App& app, std::vector<std::string>& assignments);

void add_train_app(CLI::App& root, AppContext& context);
void add_eval_app(CLI::App& root, AppContext& context);
void add_score_app(CLI::App& root, AppContext& context);
void add_generate_app(CLI::App& root, AppContext& context);
void add_tokenize_app(CLI::App& root, AppContext& context);
void add_export_app(CLI::App& root, AppContext& context);
void add_import_app(CLI::App& root, AppContext& context);
void add_config_app(CLI::App& root, AppContext& context);
void add_bench_app(CLI::App& root, AppContext& context);
void add_bench_train(CLI::App& bench, AppContext& context);  // subcommands of `bench`
void add_bench_links(CLI::App& bench, AppContext& context);
void add_sweep_app(CLI::App& root, AppContext& context);
void add_report_app(CLI::App& root, AppContext& context);
void add_info_app(CLI::App& root, AppContext& context);

}  // namespace dga

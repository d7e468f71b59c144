#include <CLI/CLI.hpp>
#include <memory>

#include "apps/apps.h"
#include "apps/ranks.h"
#include "train/session.h"

namespace dga {
namespace {

struct TrainAppOptions {
  std::string config;
  std::vector<std::string> assignments;
  bool resume = false;
  int64_t gpus = 0;
};

}  // namespace

void add_train_app(CLI::App& root, AppContext& context) {
  CLI::App* app = root.add_subcommand("train", "Train a model as a config says.");
  auto options = std::make_shared<TrainAppOptions>();
  app->add_option("config", options->config, "YAML file of the run; --set alone can describe one too");
  add_set_option(*app, options->assignments);
  app->add_flag("--resume", options->resume,
                "go on from the newest complete checkpoint of the run folder, or start if there is none");
  add_gpus_option(*app, options->gpus);
  app->footer(
      "SIGINT or SIGTERM ends the run after the step in progress, saved, with exit code 130 or 143; a second one "
      "ends it at once. A loss or gradient that is not finite ends it with exit code 5 before weights change.");
  app->callback([options, &context] {
    context.action = [options, &context] {
      const auto load = [&] { return load_run(options->config, options->assignments, RunUse::training); };
      RankedAction action;
      action.device = [&] { return load().config.run.device; };
      action.work = [&](Communicator& ranks) {
        return train(load(), context.command_line, options->resume ? Start::resume : Start::fresh, ranks);
      };
      return run_on_ranks(context, options->gpus, action);
    };
  });
}

}  // namespace dga

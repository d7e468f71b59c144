#include <ATen/Context.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "apps/apps.h"
#include "apps/ranks.h"
#include "dist/launch_environment.h"
#include "dist/together.h"
#include "sweep/runner.h"
#include "sweep/table.h"
#include "util/log.h"

namespace dga {
namespace {

/// The processes of a sweep wait for each other only when all points are done.
constexpr std::chrono::seconds kForever = std::chrono::hours(24 * 365);

struct SweepAppOptions {
  std::string file;
  std::vector<std::string> assignments;
  std::string gpus = "all";
  bool list = false;
};

std::vector<std::string> split_commas(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) parts.push_back(part);
  return parts;
}

/// What CUDA_VISIBLE_DEVICES of the points may be: the GPUs that this process sees, by the names that a child
/// understands.
std::vector<std::string> visible_gpus() {
  const int64_t count = at::hasCUDA() ? at::detail::getCUDAHooks().deviceCount() : 0;
  const char* restricted = std::getenv("CUDA_VISIBLE_DEVICES");
  std::vector<std::string> names = restricted == nullptr ? std::vector<std::string>{} : split_commas(restricted);
  for (auto i = static_cast<int64_t>(names.size()); i < count; ++i) names.push_back(std::to_string(i));
  names.resize(static_cast<size_t>(count));
  return names;
}

std::vector<std::string> choose_gpus(const std::string& text) {
  if (text == "none") return {};
  const std::vector<std::string> visible = visible_gpus();
  if (text == "all") return visible;
  std::vector<std::string> chosen;
  for (const std::string& part : split_commas(text)) {
    size_t index = visible.size();
    const char* end = part.data() + part.size();
    const bool is_number = std::from_chars(part.data(), end, index).ptr == end && !part.empty();
    if (!is_number || index >= visible.size()) {
      fail(ExitCode::usage, "--gpus ", text, ": \"", part, "\" is none of the ", visible.size(),
           " GPUs here, numbered from 0; or all, or none");
    }
    chosen.push_back(visible[index]);
  }
  return chosen;
}

/// Those of this process, where several of this host run the sweep. With fewer GPUs than processes, as where the
/// launcher shows each its own, they take them in turn.
std::vector<std::string> own_gpus(const std::vector<std::string>& gpus, const LaunchEnvironment& place) {
  const auto processes = static_cast<size_t>(place.local_world_size), index = static_cast<size_t>(place.local_rank);
  if (gpus.empty() || processes == 1) return gpus;
  if (gpus.size() < processes) return {gpus[index % gpus.size()]};
  const size_t each = gpus.size() / processes;
  const auto first = gpus.begin() + static_cast<std::ptrdiff_t>(index * each);
  return {first, first + static_cast<std::ptrdiff_t>(each)};
}

ExitCode run(const SweepAppOptions& options, Communicator& ranks) {
  ranks.set_time_limit(kForever);
  const SweepPlan plan = read_sweep(options.file, options.assignments);
  if (options.list) {
    if (ranks.is_first()) std::fputs(sweep_table(plan).markdown().c_str(), stdout);
    return ExitCode::ok;
  }
  if (ranks.is_first()) {
    for (const SweepPoint& point : plan.points) {
      for (const std::string& warning : point.warnings) log::warning("point ", point.name, ": ", warning);
    }
  }
  SweepOptions sweep;
  sweep.program = std::filesystem::read_symlink("/proc/self/exe");
  sweep.gpus = own_gpus(choose_gpus(options.gpus), find_launch_environment());
  sweep.share = {ranks.rank(), ranks.world_size()};
  sweep.on_first = [&](const std::string& topic, const auto& work) { run_on_first(ranks, topic, work); };
  const ExitCode code = run_sweep(plan, sweep);
  if (ranks.is_first()) {
    std::fputs(sweep_table(plan).markdown().c_str(), stdout);
    log::info("written to ", plan.folder.string(), ": table.md, table.csv, report.html");
  }
  return code;
}

}  // namespace

void add_sweep_app(CLI::App& root, AppContext& context) {
  CLI::App* app = root.add_subcommand("sweep", "Train many variations of a run and compare them.");
  auto options = std::make_shared<SweepAppOptions>();
  app->add_option("file", options->file, "YAML file of the sweep")->required()->type_name("FILE");
  add_set_option(*app, options->assignments);
  app->add_option("--gpus", options->gpus, "GPUs to spread the points over: all, none, or numbers as 0,1")
      ->capture_default_str();
  app->add_flag("--list", options->list, "print the table of points as it stands, run nothing");
  app->footer(
      "The same command again skips points that have finished and runs failed and interrupted ones, from their newest "
      "checkpoint. A failed point does not stop the others; the exit code is then 1.");
  app->callback([options, &context] {
    context.action = [options, &context] {
      RankedAction action;
      action.work = [&](Communicator& ranks) { return run(*options, ranks); };
      return run_on_ranks(context, 0, action);
    };
  });
}

}  // namespace dga

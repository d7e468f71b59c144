#include "apps/ranks.h"

#include <ATen/Context.h>

#include <CLI/CLI.hpp>
#include <filesystem>

#include "apps/local_launch.h"
#include "dist/rank_group.h"
#include "dist/together.h"
#include "util/log.h"

namespace dga {
namespace {

constexpr const char* kGpus = "--gpus";

/// The command line without --gpus, which its processes must not act on again.
std::vector<std::string> without_gpus(const std::vector<std::string>& words) {
  std::vector<std::string> rest;
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i].starts_with(str(kGpus, "="))) continue;
    if (words[i] == kGpus) {
      ++i;
    } else {
      rest.push_back(words[i]);
    }
  }
  return rest;
}

void check_gpus(int64_t gpus, const RankedAction& action) {
  const LaunchEnvironment place = find_launch_environment();
  if (place.world_size > 1) {
    fail(ExitCode::usage, kGpus, " ", gpus, ": this process is already one of ", place.world_size,
         " that a launcher has started; leave it out");
  }
  if (action.device() == DeviceChoice::cpu) {
    fail(ExitCode::usage, kGpus, " ", gpus, ": run.device is cpu; several CPU processes need a launcher, as torchrun");
  }
  const int64_t present = at::hasCUDA() ? at::detail::getCUDAHooks().deviceCount() : 0;
  if (gpus > present) fail(ExitCode::usage, kGpus, " ", gpus, ": there are ", present, " GPUs here");
}

}  // namespace

void add_gpus_option(CLI::App& app, int64_t& gpus) {
  app.add_option(kGpus, gpus, "work on so many GPUs of this host, with a process for each")->check(CLI::PositiveNumber);
}

ExitCode run_on_ranks(const AppContext& context, int64_t gpus, const RankedAction& action) {
  if (gpus > 0) {
    check_gpus(gpus, action);
    std::vector<std::string> words = without_gpus(context.command_line);
    words[0] = std::filesystem::read_symlink("/proc/self/exe").string();
    return launch_locally(words, gpus);
  }
  const LaunchEnvironment place = find_launch_environment();
  log::set_rank(place.rank);
  if (!place.remark.empty()) log::warning(place.remark);
  RankGroup group(place);
  const std::unique_ptr<Communicator> ranks = make_communicator(group);
  return report_failures(*ranks, [&] { return action.work(*ranks); });
}

}  // namespace dga

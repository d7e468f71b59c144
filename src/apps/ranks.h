#pragma once

#include <cstdint>
#include <functional>

#include "apps/apps.h"
#include "dist/communicator.h"
#include "run/run_config.h"

namespace dga {

/// `--gpus N`: the program starts N processes of itself on this host, each on a GPU of its own. 0 where it is not
/// given.
void add_gpus_option(CLI::App& app, int64_t& gpus);

/// A subcommand that several processes may run together.
struct RankedAction {
  std::function<ExitCode(Communicator& ranks)> work;
  std::function<DeviceChoice()> device;  // of the config; asked with --gpus alone
};

/// With `gpus`, starts that many processes with the same command line, passes signals on to them and waits for them;
/// returns the code of the first that failed. Else runs the work as the rank that the launch environment says, and
/// tells the other ranks if it fails.
ExitCode run_on_ranks(const AppContext& context, int64_t gpus, const RankedAction& action);

}  // namespace dga

#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "sweep/plan.h"
#include "util/error.h"

namespace dga {

struct SweepOptions {
  std::filesystem::path program;  // the executable whose `train` or `eval` runs a point
  std::vector<std::string>
      gpus;  // values of CUDA_VISIBLE_DEVICES, one point at a time on each; empty: one after another
};

/// Whether the sweep would run the point: unless it has finished with the config that it has now.
bool is_due(const SweepPoint& point);

/// Runs the points that are due, each as a process, `train point.yaml --resume` or `eval point.yaml`, whose output goes
/// to console.log in its folder; a point that fails does not stop the others. After each the table and the page of the
/// sweep are written again. SIGINT or SIGTERM is passed on to the points that run, which save and end. Returns ok,
/// failure where a point failed, interrupted or terminated. Throws a config error where another process runs the sweep.
ExitCode run_sweep(const SweepPlan& plan, const SweepOptions& options);

}  // namespace dga

#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "sweep/plan.h"
#include "util/error.h"
#include "util/share.h"

namespace dga {

/// Work of the first of the processes that run a sweep, which the others wait for; `topic` names the call. Where it
/// throws, all do.
using OnFirst = std::function<void(const std::string& topic, const std::function<void()>& work)>;

struct SweepOptions {
  std::filesystem::path program;  // the executable whose `train` or `eval` runs a point
  /// Names for CUDA_VISIBLE_DEVICES, plan.gpus_per_point to a point; empty: one point after another.
  std::vector<std::string> gpus;
  /// This process of those that run the sweep together: point i is for process i % share.count.
  Share share = {};
  OnFirst on_first = [](const std::string&, const std::function<void()>& work) { work(); };
};

/// Whether the sweep would run the point: unless it has finished with the config that it has now.
bool is_due(const SweepPoint& point);

/// Runs the points of this process that are due, each as processes of its own, `train point.yaml --resume` or `eval
/// point.yaml`, whose output goes to console.log in its folder; a point that fails does not stop the others. A point's
/// config is written to its folder when it starts, and nothing where another call runs the sweep. After each point
/// the first process writes the table and the page of the sweep again, and once more when all processes are through.
/// SIGINT or SIGTERM is passed on to the points that run, which save and end. Returns ok, failure where a point failed,
/// interrupted or terminated. Throws a config error where another call runs the sweep, or a point needs more GPUs than
/// there are.
ExitCode run_sweep(const SweepPlan& plan, const SweepOptions& options);

}  // namespace dga

#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "config/fields.h"

namespace dga {

/// What is done with a point: a training run, or an evaluation of the weights under model.path.
enum class SweepJob { train, eval };
inline auto enum_names(SweepJob) {
  return config::names<SweepJob>({{SweepJob::train, "train"}, {SweepJob::eval, "eval"}});
}

/// One run of a sweep.
struct SweepPoint {
  std::string name;                                             // of the run and of its folder in the sweep's
  std::filesystem::path folder;                                 // the run folder
  std::vector<std::pair<std::string, std::string>> settings{};  // swept fields and their values, in the file's order
  std::string yaml;                                             // the run's config, every field of it
  std::string config_hash;                                      // of its resolved values
  std::vector<std::string> warnings{};
  std::vector<std::string> model_assignments{};  // its fields of section model, which an evaluation takes from the
                                                 // command line alone

  std::filesystem::path config_file() const { return folder / "point.yaml"; }
};

/// What a sweep file asks for.
struct SweepPlan {
  std::string name;
  std::filesystem::path folder;
  SweepJob job = SweepJob::train;
  int64_t gpus_per_point = 1;       // processes that train or evaluate a point together, each on a GPU of its own
  std::vector<std::string> fields;  // every swept field, in the order of the file
  std::vector<SweepPoint> points;
};

/// Reads a sweep file:
///
///     name: group_size                      # default: the file's name
///     folder: runs/sweep_group_size         # default: runs/sweep_NAME
///     job: train                            # or eval: evaluate model.path, train nothing
///     gpus_per_point: 1                     # that train a point together
///     config: ../quickstart_dga.yaml        # the run that is varied, relative to this file
///     set: {train.steps: 100}               # fields that are the same in every point
///     grid: {attention.group_size: [4, 16], run.seed: [1, 2]}    # every combination is a point
///     list: [{name: full, include: ../attention/full.yaml}, {name: wide, attention.local_window: 512}]
///
/// Fields are config paths; with both grid and list, every item of the list goes with every combination. Checks each
/// point's config as the job would, and writes nothing. `assignments` (--set) go into every point. Throws a config
/// error with file and line for what is wrong in the sweep, and a point's own error, with its name, for its config.
SweepPlan read_sweep(const std::filesystem::path& file, const std::vector<std::string>& assignments);

}  // namespace dga

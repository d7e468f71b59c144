#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "attention/config.h"
#include "checkpoint/config.h"
#include "config/fields.h"
#include "config/load.h"
#include "data/config.h"
#include "dist/config.h"
#include "eval/config.h"
#include "model/config.h"
#include "model/llama_config.h"
#include "optim/config.h"
#include "train/config.h"

namespace dga {

enum class DeviceChoice { automatic, cpu, cuda };
inline auto enum_names(DeviceChoice) {
  return config::names<DeviceChoice>(
      {{DeviceChoice::automatic, "auto"}, {DeviceChoice::cpu, "cpu"}, {DeviceChoice::cuda, "cuda"}});
}

/// Section `run`: what the run is called and where it goes.
struct RunSection {
  std::string name = "run";
  std::string folder;  // empty: runs/<name>
  int64_t seed = 1234;
  DeviceChoice device = DeviceChoice::automatic;

  void fields(config::Fields& f);
  void check(config::Checker& c) const;

  /// The run folder: `folder`, or runs/<name>.
  std::filesystem::path path() const;
};

/// Everything that a run needs: the sections of one YAML file.
struct RunConfig {
  RunSection run;
  ModelConfig model;
  AttentionConfig attention;
  DataConfig data;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  TrainConfig train;
  EvalConfig eval;
  CheckpointConfig checkpoint;
  ParallelConfig parallel;
  LogConfig log;

  void fields(config::Fields& f);
  /// Rules between sections.
  void check(config::Checker& c) const;
};

/// What a config is read for: training needs sources and a tokenizer, other uses do not.
enum class RunUse { general, training };

struct LoadedRun {
  RunConfig config;
  LlamaConfig model;                  // the shape; read from model.path where that is given
  std::string resolved_yaml;          // every field, with the origin of its value as a comment
  std::string hash;                   // of the values alone
  std::vector<std::string> warnings;  // legal but doubtful combinations, one sentence each
};

/// Reads a run's config: included files, the file itself, then `assignments` ("section.field=value"); settings of the
/// attention that the folder under model.path records lie below all of them. Throws a config error that lists
/// everything wrong with the files, a line each; an input error for an unusable model folder.
LoadedRun load_run(const std::filesystem::path& path, const std::vector<std::string>& assignments,
                   RunUse use = RunUse::general);

/// The same for a config that has been read.
LoadedRun load_run(config::Document document, RunUse use);

}  // namespace dga

#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "run/run_config.h"

namespace dga {

enum class RunStart { fresh, resume };

/// Prepares the run folder before step 1: config.yaml (resolved, with origins) and provenance.json (one entry for each
/// start: config hash, commit, build, library versions, host, command line). A fresh start refuses a folder
/// that holds metrics or checkpoints already (config error naming run.folder); a resume keeps the config of the
/// earlier start as config-<hash>.yaml where the values differ. Returns the folder.
std::filesystem::path create_run_folder(const LoadedRun& run, const std::vector<std::string>& command_line,
                                        RunStart start);

/// What create_run_folder() records of one start.
nlohmann::json provenance(const LoadedRun& run, const std::vector<std::string>& command_line);

}  // namespace dga

#pragma once

#include <map>
#include <string>
#include <vector>

#include "run/run_config.h"

namespace dga {

/// Every field of a config as text, by its path ("data.sources[0].weight").
std::map<std::string, std::string> flatten(RunConfig config);

/// A field whose value is not what the checkpoint was made with; "(absent)" for one that a list no longer has.
struct ConfigChange {
  std::string path;
  std::string before;
  std::string after;
};
std::vector<ConfigChange> compare_configs(const std::map<std::string, std::string>& before,
                                          const std::map<std::string, std::string>& after);

/// Whether a run may go on after this field has changed: where it goes, what it shows, saves and evaluates, how it uses
/// the machine, how long it lasts, and which stretch of data or which steps it passes over.
bool may_change_on_resume(const std::string& path);

/// Throws a config error that names every changed field that would change the numbers of the run. Returns the others.
/// A field that the saved config lacks, because it is younger, counts as its default.
std::vector<ConfigChange> check_resumable(const std::map<std::string, std::string>& saved, const RunConfig& config);

}  // namespace dga

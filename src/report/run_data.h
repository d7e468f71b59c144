#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace dga {

/// What a run folder tells about its run.
struct RunData {
  std::string name;
  std::filesystem::path folder;
  std::map<std::string, std::string> settings;  // every field of config.yaml by its path
  nlohmann::json series;                        // {"step": [..], "tokens": [..], "loss": [..], ..}, of equal length
  std::vector<nlohmann::json> evaluations;      // eval/*.json, each with its file's name as "file"; by step, then name

  /// The last evaluation of perplexity: of the highest step, or else the last by name; null where there is none.
  const nlohmann::json& last_perplexity() const;
};

/// Points that a series has at most: a longer one is averaged over stretches of equal length.
constexpr size_t kSeriesPoints = 2000;

/// Reads config.yaml, metrics.jsonl and eval/*.json of a run folder; each may be missing, but not all. A line cut short
/// at the end of metrics.jsonl is left out: the run may be going on. Throws an input error for other damage.
RunData read_run(const std::filesystem::path& folder);

}  // namespace dga

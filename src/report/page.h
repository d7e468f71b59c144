#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "report/run_data.h"

namespace dga {

/// Points of a sweep, for curves over what was swept.
struct SweptPoint {
  std::string run;                                              // name of the point's run
  std::vector<std::pair<std::string, std::string>> settings{};  // swept fields and their values
};

/// Fields whose values are not the same in all runs, each with one value a run ("(absent)" where a run has none). Names
/// and places of the runs are left out.
std::vector<std::pair<std::string, std::vector<std::string>>> differing_settings(const std::vector<RunData>& runs);

/// One HTML page that needs nothing else: curves of loss, learning rate, gradient norm and speed, perplexity by context
/// length and by position, retrieval by length, results, settings that differ between the runs; with `sweep` curves
/// over the swept fields. Works without a network.
std::string report_page(const std::string& title, const std::vector<RunData>& runs,
                        const std::vector<SweptPoint>& sweep = {});

}  // namespace dga

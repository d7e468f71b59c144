#pragma once

#include <string>
#include <vector>

#include "sweep/plan.h"

namespace dga {

/// A point a row: the swept fields, how it stands; of training steps, loss (mean of the last tenth of the steps) and
/// tokens a second (median); and for every context length of the last evaluation NLL, perplexity and visible pairs a
/// token. A point that has changed has no results until it has been started again.
struct SweepTable {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;  // "" where a value is not known

  std::string markdown() const;
  std::string csv() const;  // RFC 4180
};

/// Reads the points' states and run folders.
SweepTable sweep_table(const SweepPlan& plan);

/// Writes table.md, table.csv and report.html into the sweep's folder.
void write_sweep_results(const SweepPlan& plan);

}  // namespace dga

#pragma once

#include <cstdint>

#include "optim/config.h"

namespace dga {

/// Learning rate of update number `step` (the first is 1) in a run of `total_steps`, `highest` being the rate at the
/// end of warm-up. A pure function, so a resumed run has no schedule state to restore.
double learning_rate(const ScheduleConfig& schedule, double highest, int64_t step, int64_t total_steps);

}  // namespace dga

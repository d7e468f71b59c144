#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace dga {
namespace {

/// Share of the highest rate when `progress` (0..1) of the fall is done.
double fall(ScheduleKind kind, double progress, double final_ratio) {
  const double left = kind == ScheduleKind::cosine ? 0.5 * (1 + std::cos(std::numbers::pi * progress)) : 1 - progress;
  return final_ratio + (1 - final_ratio) * left;
}

}  // namespace

double learning_rate(const ScheduleConfig& schedule, double highest, int64_t step, int64_t total_steps) {
  if (step < schedule.warmup_steps) {
    return highest * static_cast<double>(step) / static_cast<double>(schedule.warmup_steps);
  }
  if (schedule.kind == ScheduleKind::constant) return highest;
  const bool at_end = schedule.kind == ScheduleKind::wsd;
  const int64_t default_length = at_end ? total_steps / 10 : total_steps - schedule.warmup_steps;
  const int64_t length = std::max<int64_t>(schedule.decay_steps > 0 ? schedule.decay_steps : default_length, 1);
  const int64_t first = at_end ? std::max(total_steps - length, schedule.warmup_steps) : schedule.warmup_steps;
  const double progress = static_cast<double>(step - first) / static_cast<double>(length);
  return highest * fall(schedule.kind, std::clamp(progress, 0.0, 1.0), schedule.final_ratio);
}

}  // namespace dga

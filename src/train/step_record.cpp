#include "train/step_record.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "util/error.h"

namespace dga {
namespace {

template <class... T>
std::string format(const char* pattern, T... values) {
  char text[64];
  std::snprintf(text, sizeof(text), pattern, values...);
  return text;
}

double per_second(double amount, double seconds) { return seconds > 0 ? amount / seconds : 0; }

}  // namespace

nlohmann::json metrics_line(const StepRecord& record, std::optional<double> peak) {
  nlohmann::json line = {{"step", record.step},
                         {"tokens", record.tokens},
                         {"loss", record.loss},
                         {"lr", record.learning_rate},
                         {"grad_norm", record.grad_norm},
                         {"tokens_per_s", per_second(static_cast<double>(record.step_tokens), record.seconds)},
                         {"data_wait_ms", record.data_wait_ms},
                         {"step_ms", record.seconds * 1e3},
                         {"labels", record.labels},
                         {"memory_bytes", record.memory_bytes},
                         {"flops_per_s", per_second(record.flops, record.seconds)}};
  if (record.z_loss != 0) line["z_loss"] = record.z_loss;
  if (peak) line["mfu"] = per_second(record.flops, record.seconds) / *peak;
  if (record.ranks > 1) {
    line["ranks"] = record.ranks;
    line["reduce_ms"] = record.phase_seconds[static_cast<size_t>(StepPhase::reduce)] * 1e3;
    line["reduced_bytes"] = record.reduced_bytes;
  }
  if (record.skipped) line["skipped"] = true;
  if (!record.eval.is_null()) line["eval"] = record.eval;
  return line;
}

void Interval::add(const StepRecord& record) {
  ++steps;
  tokens += record.step_tokens;
  seconds += record.seconds;
  data_wait_ms += record.data_wait_ms;
  flops += record.flops;
}

std::string format_duration(double seconds) {
  const auto whole = static_cast<long long>(std::llround(std::max(seconds, 0.0)));
  if (whole < 60) return format("%llds", whole);
  if (whole < 3600) return format("%lldm%02llds", whole / 60, whole % 60);
  if (whole < 86400) return format("%lldh%02lldm", whole / 3600, whole % 3600 / 60);
  return format("%lldd%02lldh", whole / 86400, whole % 86400 / 3600);
}

std::string console_line(const StepRecord& record, const Interval& interval, const Progress& progress,
                         std::optional<double> peak) {
  std::string line = str("step ", record.step, "/", progress.total_steps);
  line += format("  loss %.4f  lr %.2e  norm %.3g", record.loss, record.learning_rate, record.grad_norm);
  line += format("  %.0f tokens/s", per_second(static_cast<double>(interval.tokens), interval.seconds));
  if (peak) line += format("  mfu %.1f%%", 100 * per_second(interval.flops, interval.seconds) / *peak);
  line += format("  wait %.1f%%", 100 * per_second(interval.data_wait_ms / 1e3, interval.seconds));
  line += format("  mem %.2f GB", static_cast<double>(record.memory_bytes) / 1e9);
  return line + "  eta " + format_duration(progress.eta_seconds);
}

std::string status_bar(const StepRecord& record, const Progress& progress) {
  constexpr int64_t kCells = 30;
  const double share = static_cast<double>(record.step) / static_cast<double>(progress.total_steps);
  const auto filled = std::clamp<int64_t>(std::llround(share * kCells), 0, kCells);
  const std::string bar = std::string(filled, '#') + std::string(kCells - filled, '.');
  return str("[", bar, "]", format(" %3.0f%%", 100 * share), "  step ", record.step, "/", progress.total_steps,
             format("  loss %.4f", record.loss), "  eta ", format_duration(progress.eta_seconds));
}

}  // namespace dga

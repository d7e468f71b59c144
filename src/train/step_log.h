#pragma once

#include <filesystem>
#include <optional>

#include "run/run_config.h"
#include "train/metrics_log.h"
#include "train/step_record.h"
#include "train/tensorboard_log.h"
#include "util/timer.h"

namespace dga {

/// What a run tells about its steps: metrics.jsonl, TensorBoard, lines on the console and the live bar. One rank has
/// it.
class StepLog {
 public:
  /// Goes on in the run folder behind `metrics_bytes` of metrics.jsonl and `first_step`. `peak` is in FLOP/s of all
  /// ranks.
  StepLog(const RunConfig& config, const std::filesystem::path& run_folder, int64_t metrics_bytes, int64_t first_step,
          std::optional<double> peak);

  /// From now on counts what the run needs for its steps.
  void start() { since_start_.restart(); }
  void add(const StepRecord& record);
  /// Bytes of metrics.jsonl, which are safe now.
  int64_t sync() { return metrics_.sync(); }

 private:
  void write_events(const nlohmann::json& line);

  int64_t steps_, every_steps_, first_step_;
  std::optional<double> peak_;
  MetricsLog metrics_;
  std::optional<TensorboardLog> tensorboard_;
  Interval interval_;
  Timer since_start_;
};

}  // namespace dga

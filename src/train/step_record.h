#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace dga {

/// What a step does, in this order. reduce: what backward did not hide of summing gradients over the ranks. optimizer:
/// norm, clipping and update; weights that other ranks updated arrive during the next step's forward.
enum class StepPhase { data, forward, backward, reduce, optimizer };
constexpr size_t kStepPhases = 5;

/// What is known about one step once it is over.
struct StepRecord {
  int64_t step = 0;
  int64_t tokens = 0;       // of the run up to and including this step
  int64_t step_tokens = 0;  // of this step
  int64_t labels = 0;       // of this step
  double loss = 0;          // negative log-likelihood a label, without z-loss
  double z_loss = 0;        // its part of what was minimised, a label
  double learning_rate = 0;
  double grad_norm = 0;                             // before clipping
  bool skipped = false;                             // an outlier: weights unchanged
  double seconds = 0;                               // of the step, waiting for data included
  std::array<double, kStepPhases> phase_seconds{};  // by StepPhase, on the device; they add up to `seconds`
  double launch_seconds = 0;                        // that the host took to give the step to the device, data included
  double data_wait_ms = 0;
  double flops = 0;           // model FLOPs of the step, from visible pairs, recomputation not counted
  int64_t memory_bytes = 0;   // highest so far of any rank
  int64_t ranks = 1;          // that trained together; tokens, labels and flops are of all of them, times of the first
  int64_t reduced_bytes = 0;  // that each rank gave to the reductions of gradients
  nlohmann::json eval;        // null, or perplexity on held-out text
};

/// The step's line of metrics.jsonl; mfu where `peak` (FLOP/s) is known.
nlohmann::json metrics_line(const StepRecord& record, std::optional<double> peak);

/// Sums since the last console line, which shows averages over these steps where one step says little.
struct Interval {
  int64_t steps = 0;
  int64_t tokens = 0;
  double seconds = 0;
  double data_wait_ms = 0;
  double flops = 0;
  void add(const StepRecord& record);
};

/// How far the run is.
struct Progress {
  int64_t total_steps = 0;
  double eta_seconds = 0;
};

/// "step 20/1000  loss 5.1234  lr 3.00e-04  norm 1.23  5400 tokens/s  mfu 41.2%  wait 0.1%  mem 1.20 GB  eta 3m20s".
/// Speed, MFU and wait are over the interval.
std::string console_line(const StepRecord& record, const Interval& interval, const Progress& progress,
                         std::optional<double> peak);

/// The live bar: "[####......]  40%  step 400/1000  loss 3.21  eta 3m20s".
std::string status_bar(const StepRecord& record, const Progress& progress);

/// "45s", "3m20s", "2h05m", "3d04h".
std::string format_duration(double seconds);

}  // namespace dga

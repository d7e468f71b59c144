#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/step_profile.h"
#include "dist/communicator.h"
#include "dist/config.h"
#include "run/run_config.h"
#include "train/prediction.h"
#include "train/step_record.h"

namespace dga {

struct TrainBenchOptions {
  int64_t steps = 10;
  int64_t warmup_steps = 3;
  bool profile = false;  // one more step, under the profiler
};

/// Training steps of a config, measured.
struct TrainBenchResult {
  std::string card, attention, config_hash;
  int64_t ranks = 1;
  ParallelConfig parallel;
  int64_t context_length = 0, global_batch_size = 0, micro_batch_size = 0, parameters = 0;
  std::vector<StepRecord> records;  // of the measured steps
  std::optional<double> peak_flops;
  int64_t memory_bytes = 0;  // highest so far, of LibTorch's allocator on a GPU
  double setup_seconds = 0;  // weights, optimizer and data, until the first step
  std::optional<PredictedMemory> predicted_memory;
  std::optional<PredictedTime> predicted_time;
  std::optional<StepProfile> profile;

  double median_seconds() const;
  /// Tokens over the time of all measured steps.
  double tokens_per_second() const;
  /// Share of the peak of all ranks' devices; nothing where that is not known or the training is not bf16.
  std::optional<double> mfu() const;
};

/// Trains as the config says, the host a step behind the device as in a real run, and throws the result away: nothing
/// is evaluated or saved, and the run folder is a temporary one. Times are those of this rank; tokens, FLOPs and the
/// peak are of all.
TrainBenchResult bench_train(LoadedRun run, const TrainBenchOptions& options, Communicator& ranks);

/// A few lines of text, and a markdown table of the profile where there is one.
std::string train_bench_text(const TrainBenchResult& result);

/// One JSON object; `commit` is that of the binary.
std::string train_bench_json(const TrainBenchResult& result, const std::string& commit);

}  // namespace dga

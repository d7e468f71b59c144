#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "checkpoint/reader.h"
#include "checkpoint/writer.h"
#include "data/loader.h"
#include "dist/communicator.h"
#include "loss/linear_cross_entropy.h"
#include "model/llama.h"
#include "optim/adamw.h"
#include "run/run_config.h"
#include "train/device_mark.h"
#include "train/flop_counter.h"
#include "train/held_out.h"
#include "train/metrics_log.h"
#include "train/micro_batch.h"
#include "train/outlier_filter.h"
#include "train/step_record.h"
#include "train/tensorboard_log.h"
#include "train/training_state.h"
#include "util/timer.h"

namespace dga {

/// What a run is made of.
struct TrainerParts {
  Communicator* ranks = nullptr;  // outlives the trainer
  std::filesystem::path run_folder;
  std::shared_ptr<const Tokenizer> tokenizer;  // null where all text is token bins
  std::unique_ptr<Loader> loader;
  std::unique_ptr<Llama> model;
  std::optional<CheckpointFolder> resume_from;  // verified
};

/// Trains a model step by step and keeps its run folder.
class Trainer {
 public:
  /// Selects the trainable parameters and, with `resume_from`, takes over that checkpoint's state.
  Trainer(const LoadedRun& run, TrainerParts parts);

  /// Steps until train.steps, or until SIGINT or SIGTERM has arrived; saves at the end of either. Returns ok,
  /// interrupted or terminated. Throws a numerics error as complete() does; on a GPU the host reads a step's numbers
  /// while the next step runs.
  ExitCode run();

  /// A step that was given to the device, and whose loss and norm the host has perhaps not seen yet.
  struct PendingStep {
    StepRecord record;
    Batch batch;
    DeviceMark begin;
    std::vector<std::pair<StepPhase, DeviceMark>> phase_ends;  // in order; a phase comes once a micro-batch
    DeviceMark numbers_ready;
    at::Tensor numbers;  // [2 k + 1] float64 on the host: sums of nll and of loss for k micro-batches, gradient norm
  };
  /// One update, without waiting for a GPU unless the outlier filter needs the norm. Where the loss or the gradient
  /// norm is not finite, neither this nor any later update changes a weight.
  PendingStep launch_step();
  /// Waits for the step. Throws a numerics error that names its documents where the loss or the norm is not finite.
  StepRecord complete(PendingStep step);
  StepRecord train_step() { return complete(launch_step()); }

  /// Writes a checkpoint of the present state, unless the last one is of this step.
  void save();
  /// Waits for the checkpoint that is being written; throws if it failed.
  void finish_saving() { writer_.wait(); }

  const Llama& model() const { return *model_; }
  const TrainingState& state() const { return state_; }
  int64_t trainable_count() const;  // numbers, not tensors

 private:
  void restore(const CheckpointFolder& checkpoint);
  Batch next_batch(StepRecord& record);
  std::vector<MicroBatch> split(const Batch& batch) const;
  LossSum loss_of(const MicroBatch& part) const;
  void read_numbers(PendingStep& step) const;
  void require_finite(const PendingStep& step) const;
  void update(PendingStep& step);
  void skip_update(const StepRecord& record, const Batch& batch);
  void report(const StepRecord& record);
  bool must_settle() const;
  ExitCode settle(PendingStep step);
  ExitCode stop(int signal);

  RunConfig config_;
  Communicator& ranks_;
  std::filesystem::path folder_;
  HfExport description_;
  std::unique_ptr<Llama> model_;
  std::unique_ptr<Loader> loader_;
  std::vector<TrainedParameter> trainable_;
  AdamW optimizer_;
  OutlierFilter outliers_;
  TrainingState state_;
  std::optional<MetricsLog> metrics_;
  std::optional<TensorboardLog> tensorboard_;
  BackgroundWriter writer_;
  std::optional<HeldOutEvaluation> held_out_;
  FlopCounter flops_;
  std::optional<double> peak_;  // FLOP/s
  Interval interval_;
  Timer since_start_;
  int64_t launched_ = 0;    // steps that the device was given; state_.step of them are complete
  int64_t first_step_ = 0;  // of this process, less one
  int64_t saved_step_ = -1;
};

}  // namespace dga

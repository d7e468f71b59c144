#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
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
#include "train/micro_batch.h"
#include "train/outlier_filter.h"
#include "train/step_log.h"
#include "train/step_numbers.h"
#include "train/step_record.h"
#include "train/training_state.h"

namespace dga {

/// What a run is made of.
struct TrainerParts {
  std::filesystem::path run_folder;
  std::shared_ptr<const Tokenizer> tokenizer;  // null where all text is token bins
  std::unique_ptr<Loader> loader;
  std::unique_ptr<Llama> model;
  std::optional<CheckpointFolder> resume_from;  // verified
};

/// Trains a model step by step and keeps its run folder.
class Trainer {
 public:
  /// Selects the trainable parameters and, with `resume_from`, takes over that checkpoint's state. The loader gives
  /// this rank's rows of each step. `ranks` must outlive the trainer.
  Trainer(const LoadedRun& run, TrainerParts parts, Communicator& ranks);

  /// Steps until train.steps, or until SIGINT or SIGTERM has arrived at any rank; saves at the end of either. Returns
  /// ok, interrupted or terminated, the same on all ranks after the same step. A rank that is alone does not wait for
  /// data then; several agree on the step with the numbers of one, for which all need data. Throws a numerics error as
  /// complete() does; on a GPU the host reads a step's numbers while the next step runs.
  ExitCode run();

  /// A step that was given to the device, and whose loss and norm the host has perhaps not seen yet.
  struct PendingStep {
    StepRecord record;
    Batch batch;
    DeviceMark begin;
    std::vector<std::pair<StepPhase, DeviceMark>> phase_ends;  // in order; a phase comes once a micro-batch
    StepNumbers layout;
    DeviceMark numbers_ready;
    at::Tensor numbers;  // float64 on the host, as `layout` says
  };
  /// One update, without waiting for a GPU unless the outlier filter needs the norm. Where the loss or the gradient
  /// norm is not finite, neither this nor any later update changes a weight, on any rank. Nothing where SIGINT or
  /// SIGTERM has arrived at a rank that is alone and the step's data has not.
  std::optional<PendingStep> launch_step();
  /// Waits for the step. Throws a numerics error that names the documents where the loss or the norm is not finite, on
  /// all ranks.
  StepRecord complete(PendingStep step);
  StepRecord train_step() { return complete(launch_step().value()); }

  /// Writes a checkpoint of the present state, unless the last one is of this step.
  void save();
  /// Waits for the checkpoint that is being written; throws if it failed.
  void finish_saving() { writer_.wait(); }

  const Llama& model() const { return *model_; }
  const TrainingState& state() const { return state_; }
  int64_t trainable_count() const;  // numbers, not tensors

 private:
  void restore(const CheckpointFolder& checkpoint);
  std::optional<Batch> next_batch(StepRecord& record);
  std::vector<MicroBatch> split(const Batch& batch) const;
  LossSum loss_of(const MicroBatch& part);
  at::Tensor total_labels(int64_t own);
  void read_numbers(PendingStep& step) const;
  void require_finite(const PendingStep& step) const;
  std::string batch_name() const;
  void update(PendingStep& step);
  void skip_update(const StepRecord& record, const Batch& batch);
  void report(const StepRecord& record);
  int agreed_signal() const;
  bool must_settle() const;
  ExitCode run_steps();
  ExitCode settle(PendingStep step);
  nlohmann::json evaluate();
  ExitCode stop(int signal);

  RunConfig config_;
  Communicator& ranks_;
  std::filesystem::path folder_;
  HfExport description_;
  std::unique_ptr<Llama> model_;
  std::unique_ptr<Loader> loader_;
  std::vector<TrainedParameter> trainable_;
  std::vector<size_t> through_layers_;  // see trained_through_layers()
  AdamW optimizer_;
  OutlierFilter outliers_;
  TrainingState state_;
  std::optional<StepLog> log_;  // of the first rank
  BackgroundWriter writer_;
  std::optional<HeldOutEvaluation> held_out_;
  FlopCounter flops_;
  int64_t launched_ = 0;           // steps that the device was given; state_.step of them are complete
  std::optional<DeviceMark> end_;  // of the step that was launched last, while it is under way
  int64_t saved_step_ = -1;
  int signal_ = 0;  // that reached any rank, as of the last step that is complete
};

}  // namespace dga

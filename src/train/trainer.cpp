#include "train/trainer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <utility>

#include "optim/schedule.h"
#include "train/config_difference.h"
#include "train/device_peak.h"
#include "train/pose.h"
#include "train/trainable.h"
#include "util/error.h"
#include "util/log.h"
#include "util/signals.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

HfExport describe_model(const RunConfig& config, const Llama& model) {
  HfExport description;
  description.config = model.config();
  description.attention = config.attention;
  description.dtype = model.dtype();
  description.tokenizer_source = config.data.tokenizer.empty() ? config.model.path : config.data.tokenizer;
  return description;
}

/// Model FLOP/s are compared with the bf16 peak, so MFU is shown for bf16 training alone.
std::optional<double> find_peak(const Llama& model) {
  return model.dtype() == at::kBFloat16 ? peak_flops(device_name(model.device())) : std::nullopt;
}

/// Gradients of several micro-batches add up in fp32; a single one stays as it is.
GradientSum gradient_sum(const TrainConfig& train) {
  return train.micro_batch_size < train.global_batch_size ? GradientSum::fp32 : GradientSum::as_weights;
}

/// A copy in host memory that is there once the device's work so far is done.
at::Tensor to_host(const at::Tensor& numbers) {
  if (numbers.is_cpu()) return numbers;
  const at::Tensor host = at::empty(numbers.sizes(), numbers.options().device(at::kCPU).pinned_memory(true));
  host.copy_(numbers, /*non_blocking=*/true);
  return host;
}

bool is_due(int64_t every_steps, int64_t step) { return every_steps > 0 && step % every_steps == 0; }

}  // namespace

Trainer::Trainer(const LoadedRun& run, TrainerParts parts)
    : config_(run.config),
      ranks_(*parts.ranks),
      folder_(std::move(parts.run_folder)),
      description_(describe_model(config_, *parts.model)),
      model_(std::move(parts.model)),
      loader_(std::move(parts.loader)),
      trainable_(select_trainable(model_->parameters(), config_.train.trainable)),
      optimizer_(config_.optimizer, static_cast<uint64_t>(config_.run.seed), trainable_, gradient_sum(config_.train)),
      outliers_(config_.train.skip_outliers),
      writer_(folder_ / "checkpoints", config_.checkpoint, ranks_),
      flops_(*model_),
      peak_(find_peak(*model_)) {
  if (parts.resume_from) restore(*parts.resume_from);
  state_.seed = config_.run.seed;
  state_.config = flatten(config_);
  state_.config_hash = run.hash;
  metrics_.emplace(folder_ / "metrics.jsonl", state_.metrics_bytes);
  if (config_.log.tensorboard) tensorboard_.emplace(folder_ / "tensorboard", state_.step);
  if (config_.eval.every_steps > 0) held_out_.emplace(config_, std::move(parts.tokenizer), folder_);
}

void Trainer::restore(const CheckpointFolder& checkpoint) {
  state_ = read_training_state(checkpoint.path);
  restore_tensors(checkpoint.path, state_, *model_, optimizer_);
  outliers_.restore(state_.outliers);
  loader_->restore(state_.loader);
  launched_ = state_.step;
  first_step_ = state_.step;
  saved_step_ = state_.step;
}

int64_t Trainer::trainable_count() const {
  int64_t count = 0;
  for (const TrainedParameter& parameter : trainable_) count += parameter.value.numel();
  return count;
}

ExitCode Trainer::run() {
  since_start_.restart();
  std::optional<PendingStep> before;
  while (launched_ < config_.train.steps) {
    PendingStep step = launch_step();
    if (before) report(complete(*std::exchange(before, std::nullopt)));
    if (!must_settle()) {
      before = std::move(step);
    } else if (const ExitCode code = settle(std::move(step)); code != ExitCode::ok) {
      return code;
    }
  }
  save();
  finish_saving();
  return ExitCode::ok;
}

/// Whether the numbers of the step that was launched last are needed before the next one begins.
bool Trainer::must_settle() const {
  const bool last = launched_ == config_.train.steps;
  return model_->device().is_cpu() || last || stop_signal() != 0 || is_due(config_.eval.every_steps, launched_) ||
         is_due(config_.checkpoint.every_steps, launched_);
}

ExitCode Trainer::settle(PendingStep step) {
  StepRecord record = complete(std::move(step));
  const bool last = state_.step == config_.train.steps;
  if (held_out_ && stop_signal() == 0 && (last || is_due(config_.eval.every_steps, state_.step))) {
    record.eval = held_out_->run(*model_, state_.step, ranks_);
  }
  report(record);
  if (const int signal = stop_signal(); signal != 0) return stop(signal);
  if (is_due(config_.checkpoint.every_steps, state_.step)) save();
  return ExitCode::ok;
}

Trainer::PendingStep Trainer::launch_step() {
  const Timer timer;
  const at::Device device = model_->device();
  const DeviceMark begin(device);
  PendingStep step{{}, {}, begin, {}, begin, {}};
  const auto phase_ends = [&](StepPhase phase) { step.phase_ends.emplace_back(phase, DeviceMark(device)); };
  StepRecord& record = step.record;
  record.step = launched_ + 1;
  record.learning_rate =
      learning_rate(config_.schedule, config_.optimizer.learning_rate, record.step, config_.train.steps);
  step.batch = next_batch(record);
  record.labels = label_count(step.batch);

  std::vector<at::Tensor> nll_sums, loss_sums;  // float64 scalars, one for each micro-batch; the second with z-loss
  const std::vector<MicroBatch> parts = split(step.batch);
  phase_ends(StepPhase::data);
  for (const MicroBatch& part : parts) {
    const LossSum sum = loss_of(part);
    phase_ends(StepPhase::forward);
    // Divided by the labels of the whole step, so the split into micro-batches changes nothing.
    (sum.loss_sum / std::max<int64_t>(record.labels, 1)).backward();
    phase_ends(StepPhase::backward);
    nll_sums.push_back(sum.nll_sum);
    loss_sums.push_back(sum.loss_sum.detach());
    record.flops += flops_.of(part.layout, step.batch.context_length);
  }
  const at::Tensor losses = at::stack(loss_sums);
  const at::Tensor norm = optimizer_.measure_gradients(losses);
  step.numbers = to_host(at::cat({at::stack(nll_sums), losses, norm.view({1})}));
  step.numbers_ready = DeviceMark(device);
  update(step);
  phase_ends(StepPhase::optimizer);
  launched_ = record.step;
  record.memory_bytes = peak_memory_bytes(device);
  record.launch_seconds = timer.seconds();
  return step;
}

void Trainer::update(PendingStep& step) {
  if (outliers_.is_active()) {
    read_numbers(step);
    require_finite(step);
    step.record.skipped = outliers_.is_outlier(step.record.grad_norm);
  }
  if (step.record.skipped) {
    skip_update(step.record, step.batch);
  } else {
    optimizer_.update(step.record.learning_rate);
  }
}

StepRecord Trainer::complete(PendingStep step) {
  read_numbers(step);
  require_finite(step);
  state_.step = step.record.step;
  state_.tokens += step.record.step_tokens;
  step.record.tokens = state_.tokens;
  DeviceMark before = step.begin;
  for (const auto& [phase, end] : step.phase_ends) {
    step.record.phase_seconds[static_cast<size_t>(phase)] += end.seconds_since(before);
    before = end;
  }
  step.record.seconds = before.seconds_since(step.begin);
  return std::move(step.record);
}

Batch Trainer::next_batch(StepRecord& record) {
  const Timer timer;
  Batch batch = loader_->next();
  record.data_wait_ms = timer.milliseconds();
  record.step_tokens = batch.rows * batch.context_length;
  return batch;
}

std::vector<MicroBatch> Trainer::split(const Batch& batch) const {
  const RowSplit row_split = config_.data.document_masking ? RowSplit::documents : RowSplit::whole_rows;
  std::vector<MicroBatch> parts;
  for (int64_t row = 0; row < batch.rows; row += config_.train.micro_batch_size) {
    const int64_t rows = std::min(config_.train.micro_batch_size, batch.rows - row);
    parts.push_back(make_micro_batch(batch, row, rows, row_split, model_->device()));
    skip_positions(config_.train.pose, batch, static_cast<uint64_t>(config_.run.seed), parts.back());
  }
  return parts;
}

LossSum Trainer::loss_of(const MicroBatch& part) const {
  const at::Tensor hidden = model_->forward(part.tokens, part.layout, config_.train.memory);  // [b, L, hidden]
  return linear_cross_entropy(hidden.flatten(0, 1), model_->output_weight(), part.labels, config_.train.loss);
}

void Trainer::read_numbers(PendingStep& step) const {
  step.numbers_ready.wait();
  const int64_t parts = step.numbers.numel() / 2;
  const double labels = static_cast<double>(std::max<int64_t>(step.record.labels, 1));
  step.record.loss = step.numbers.narrow(0, 0, parts).sum().item<double>() / labels;
  step.record.z_loss = step.numbers.narrow(0, parts, parts).sum().item<double>() / labels - step.record.loss;
  step.record.grad_norm = step.numbers[2 * parts].item<double>();
}

void Trainer::require_finite(const PendingStep& step) const {
  const StepRecord& record = step.record;
  const int64_t parts = step.numbers.numel() / 2;
  for (int64_t i = 0; i < parts; ++i) {
    const double value = step.numbers[parts + i].item<double>();
    if (std::isfinite(value)) continue;
    const int64_t row = i * config_.train.micro_batch_size;
    fail(ExitCode::numerics, "step ", record.step, ": the loss is ", value, "; no weight has changed since step ",
         record.step - 1, ". Rows ", row,
         " and on of the batch: ", describe_documents(step.batch, row, config_.train.micro_batch_size));
  }
  if (std::isfinite(record.grad_norm)) return;
  fail(ExitCode::numerics, "step ", record.step, ": the gradient norm is ", record.grad_norm, " at loss ", record.loss,
       "; no weight has changed since step ", record.step - 1,
       ". The batch: ", describe_documents(step.batch, 0, step.batch.rows));
}

void Trainer::skip_update(const StepRecord& record, const Batch& batch) {
  optimizer_.discard_gradients();
  log::warning("step ", record.step, ": no update, the gradient norm ", record.grad_norm, " is beyond ",
               config_.train.skip_outliers.factor, " times the median ", outliers_.median(), " (",
               outliers_.state().skipped, " skipped so far). The batch: ", describe_documents(batch, 0, batch.rows));
}

void Trainer::report(const StepRecord& record) {
  const nlohmann::json line = metrics_line(record, peak_);
  metrics_->append(line);
  if (tensorboard_) tensorboard_->append(line);
  interval_.add(record);
  const auto done = static_cast<double>(record.step - first_step_);
  const auto left = static_cast<double>(config_.train.steps - record.step);
  const Progress progress{config_.train.steps, since_start_.seconds() / done * left};
  const bool shown = is_due(config_.log.every_steps, record.step) || record.step == config_.train.steps;
  if (shown) {
    log::info(console_line(record, interval_, progress, peak_));
    interval_ = {};
  }
  log::show_status(record.step == config_.train.steps ? "" : status_bar(record, progress));
}

void Trainer::save() {
  if (saved_step_ == state_.step) return;
  state_.optimizer_updates = optimizer_.updates();
  state_.outliers = outliers_.state();
  state_.loader = loader_->state();
  state_.metrics_bytes = metrics_->sync();
  const Snapshot snapshot = config_.checkpoint.background ? Snapshot::copied : Snapshot::live;
  const Share rank{ranks_.rank(), ranks_.world_size()};
  writer_.submit(make_checkpoint(state_, *model_, description_, optimizer_, snapshot, rank));
  saved_step_ = state_.step;
}

ExitCode Trainer::stop(int signal) {
  save();
  finish_saving();
  log::show_status("");
  log::info("stopped by ", signal == SIGINT ? "SIGINT" : "SIGTERM", " after step ", state_.step,
            ", which is saved; --resume goes on from there");
  return signal == SIGINT ? ExitCode::interrupted : ExitCode::terminated;
}

}  // namespace dga

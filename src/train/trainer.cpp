#include "train/trainer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <csignal>

#include "optim/gradients.h"
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

}  // namespace

Trainer::Trainer(const LoadedRun& run, TrainerParts parts)
    : config_(run.config),
      folder_(std::move(parts.run_folder)),
      description_(describe_model(config_, *parts.model)),
      model_(std::move(parts.model)),
      loader_(std::move(parts.loader)),
      trainable_(select_trainable(model_->parameters(), config_.train.trainable)),
      optimizer_(config_.optimizer, trainable_),
      outliers_(config_.train.skip_outliers),
      writer_(folder_ / "checkpoints", config_.checkpoint),
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
  while (state_.step < config_.train.steps) {
    StepRecord record = train_step();
    const bool last = state_.step == config_.train.steps;
    if (held_out_ && stop_signal() == 0 && (last || is_due(config_.eval.every_steps))) {
      record.eval = held_out_->run(*model_, state_.step);
    }
    report(record);
    if (const int signal = stop_signal(); signal != 0) return stop(signal);
    if (is_due(config_.checkpoint.every_steps)) save();
  }
  save();
  finish_saving();
  return ExitCode::ok;
}

StepRecord Trainer::train_step() {
  const Timer timer;
  StepRecord record;
  record.step = state_.step + 1;
  record.learning_rate =
      learning_rate(config_.schedule, config_.optimizer.learning_rate, record.step, config_.train.steps);
  const Batch batch = next_batch(record);
  record.labels = label_count(batch);

  StepLoss loss;
  for (const MicroBatch& part : split(batch)) {
    const LossSum sum = loss_of(part);
    // Divided by the labels of the whole step, so the split into micro-batches changes nothing.
    (sum.loss_sum / std::max<int64_t>(record.labels, 1)).backward();
    optimizer_.accumulate_gradients();
    loss.nll_sums.push_back(sum.nll_sum);
    loss.loss_sums.push_back(sum.loss_sum.detach());
    record.flops += flops_.of(part.layout, batch.context_length);
  }
  read_loss(loss, batch, record);
  record.grad_norm = optimizer_.gradient_norm();
  require_finite_norm(record, batch);

  record.skipped = outliers_.is_outlier(record.grad_norm);
  if (record.skipped) {
    skip_update(record, batch);
  } else {
    optimizer_.update(record.learning_rate, clip_factor(record.grad_norm, config_.optimizer.clip_norm));
  }
  state_.step = record.step;
  state_.tokens += record.step_tokens;
  record.tokens = state_.tokens;
  record.memory_bytes = peak_memory_bytes(model_->device());
  record.seconds = timer.seconds();
  return record;
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
  const Recompute recompute = config_.train.recompute == RecomputeKind::block ? Recompute::block : Recompute::none;
  const at::Tensor hidden = model_->forward(part.tokens, part.layout, recompute);  // [b, L, hidden]
  return linear_cross_entropy(hidden.flatten(0, 1), model_->output_weight(), part.labels, config_.train.loss);
}

void Trainer::read_loss(const StepLoss& loss, const Batch& batch, StepRecord& record) const {
  const at::Tensor nll = at::stack(loss.nll_sums).cpu(), whole = at::stack(loss.loss_sums).cpu();
  const double labels = static_cast<double>(std::max<int64_t>(record.labels, 1));
  record.loss = nll.sum().item<double>() / labels;
  record.z_loss = whole.sum().item<double>() / labels - record.loss;
  for (int64_t i = 0; i < whole.size(0); ++i) {
    const double value = whole[i].item<double>();
    if (std::isfinite(value)) continue;
    const int64_t row = i * config_.train.micro_batch_size;
    fail(ExitCode::numerics, "step ", record.step, ": the loss is ", value, "; no weight has changed since step ",
         state_.step, ". Rows ", row,
         " and on of the batch: ", describe_documents(batch, row, config_.train.micro_batch_size));
  }
}

void Trainer::require_finite_norm(const StepRecord& record, const Batch& batch) const {
  if (std::isfinite(record.grad_norm)) return;
  fail(ExitCode::numerics, "step ", record.step, ": the gradient norm is ", record.grad_norm, " at loss ", record.loss,
       "; no weight has changed since step ", state_.step, ". The batch: ", describe_documents(batch, 0, batch.rows));
}

void Trainer::skip_update(const StepRecord& record, const Batch& batch) {
  optimizer_.discard_gradients();
  log::warning("step ", record.step, ": no update, the gradient norm ", record.grad_norm, " is beyond ",
               config_.train.skip_outliers.factor, " times the median ", outliers_.median(), " (",
               outliers_.state().skipped, " skipped so far). The batch: ", describe_documents(batch, 0, batch.rows));
}

bool Trainer::is_due(int64_t every_steps) const { return every_steps > 0 && state_.step % every_steps == 0; }

void Trainer::report(const StepRecord& record) {
  const nlohmann::json line = metrics_line(record, peak_);
  metrics_->append(line);
  if (tensorboard_) tensorboard_->append(line);
  interval_.add(record);
  const auto done = static_cast<double>(record.step - first_step_);
  const auto left = static_cast<double>(config_.train.steps - record.step);
  const Progress progress{config_.train.steps, since_start_.seconds() / done * left};
  const bool shown = is_due(config_.log.every_steps) || record.step == config_.train.steps;
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
  writer_.submit(make_checkpoint(state_, *model_, description_, optimizer_, snapshot));
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

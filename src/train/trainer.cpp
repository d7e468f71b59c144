#include "train/trainer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
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

/// FLOP/s of all ranks together. Model FLOP/s are compared with the bf16 peak, so MFU is shown for bf16 training alone.
std::optional<double> find_peak(const Llama& model, const Communicator& ranks) {
  const auto peak = model.dtype() == at::kBFloat16 ? peak_flops(device_name(model.device())) : std::nullopt;
  return peak ? std::optional(*peak * static_cast<double>(ranks.world_size())) : std::nullopt;
}

/// Gradients of several micro-batches add up in fp32; a single one stays as it is.
GradientSum gradient_sum(const TrainConfig& train, const Communicator& ranks) {
  return train.micro_batch_size * ranks.world_size() < train.global_batch_size ? GradientSum::fp32
                                                                               : GradientSum::as_weights;
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

Trainer::Trainer(const LoadedRun& run, TrainerParts parts, Communicator& ranks)
    : config_(run.config),
      ranks_(ranks),
      folder_(std::move(parts.run_folder)),
      description_(describe_model(config_, *parts.model)),
      model_(std::move(parts.model)),
      loader_(std::move(parts.loader)),
      trainable_(select_trainable(model_->parameters(), config_.train.trainable)),
      through_layers_(trained_through_layers(trainable_, model_->config().num_hidden_layers)),
      optimizer_(config_.optimizer, static_cast<uint64_t>(config_.run.seed), trainable_,
                 gradient_sum(config_.train, ranks), data_parallel(ranks, config_.parallel)),
      outliers_(config_.train.skip_outliers),
      writer_(folder_ / "checkpoints", config_.checkpoint, ranks),
      flops_(*model_) {
  if (parts.resume_from) restore(*parts.resume_from);
  state_.seed = config_.run.seed;
  state_.config = flatten(config_);
  state_.config_hash = run.hash;
  if (ranks.is_first()) {
    log_.emplace(config_, folder_, state_.metrics_bytes, state_.step, find_peak(*model_, ranks));
  }
  if (config_.eval.every_steps > 0) held_out_.emplace(config_, std::move(parts.tokenizer), folder_);
}

void Trainer::restore(const CheckpointFolder& checkpoint) {
  state_ = read_training_state(checkpoint.path);
  restore_tensors(checkpoint.path, state_, *model_, optimizer_);
  outliers_.restore(state_.outliers);
  loader_->restore(state_.loader);
  launched_ = state_.step;
  saved_step_ = state_.step;
}

int64_t Trainer::trainable_count() const {
  int64_t count = 0;
  for (const TrainedParameter& parameter : trainable_) count += parameter.value.numel();
  return count;
}

ExitCode Trainer::run() {
  if (log_) log_->start();
  try {
    return run_steps();
  } catch (const Error& error) {
    // All ranks end at the same step and are well: let them finish the checkpoint that they are writing.
    if (error.code() == ExitCode::numerics) writer_.finish();
    throw;
  }
}

ExitCode Trainer::run_steps() {
  std::optional<PendingStep> before;
  while (launched_ < config_.train.steps) {
    std::optional<PendingStep> step = launch_step();
    if (before) report(complete(*std::exchange(before, std::nullopt)));
    if (!step) return stop(stop_signal());
    if (!must_settle()) {
      before = std::move(step);
    } else if (const ExitCode code = settle(*std::move(step)); code != ExitCode::ok) {
      return code;
    }
  }
  save();
  finish_saving();
  return ExitCode::ok;
}

/// The signal that all ranks stop for, after the step that was launched last. What arrives here reaches the others with
/// the numbers of the next step; a rank that is alone need not wait for that.
int Trainer::agreed_signal() const { return ranks_.world_size() == 1 ? stop_signal() : signal_; }

/// Whether the numbers of the step that was launched last are needed before the next one begins.
bool Trainer::must_settle() const {
  const bool last = launched_ == config_.train.steps;
  return model_->device().is_cpu() || last || agreed_signal() != 0 || is_due(config_.eval.every_steps, launched_) ||
         is_due(config_.checkpoint.every_steps, launched_);
}

ExitCode Trainer::settle(PendingStep step) {
  StepRecord record = complete(std::move(step));
  const bool last = state_.step == config_.train.steps;
  if (held_out_ && agreed_signal() == 0 && (last || is_due(config_.eval.every_steps, state_.step))) {
    record.eval = evaluate();
  }
  report(record);
  if (const int signal = agreed_signal(); signal != 0) return stop(signal);
  if (is_due(config_.checkpoint.every_steps, state_.step)) save();
  return ExitCode::ok;
}

/// A signal that the ranks agree on ends the evaluation without a result and then the run.
nlohmann::json Trainer::evaluate() {
  try {
    return held_out_->run(*model_, state_.step, ranks_);
  } catch (const Error& error) {
    if (error.code() != ExitCode::interrupted && error.code() != ExitCode::terminated) throw;
    signal_ = error.code() == ExitCode::interrupted ? SIGINT : SIGTERM;
    return nullptr;
  }
}

std::optional<Trainer::PendingStep> Trainer::launch_step() {
  const Timer timer;
  const at::Device device = model_->device();
  // Behind a step that is still under way everything up to this one's end is its own: what it waits for counts.
  const DeviceMark begin = end_ ? *end_ : DeviceMark(device);
  StepRecord awaiting;
  std::optional<Batch> batch = next_batch(awaiting);
  if (!batch) return std::nullopt;
  PendingStep step{std::move(awaiting), *std::move(batch), begin, {}, StepNumbers(0, ranks_), begin, {}};
  const auto phase_ends = [&](StepPhase phase) { step.phase_ends.emplace_back(phase, DeviceMark(device)); };
  StepRecord& record = step.record;
  record.step = launched_ + 1;
  record.ranks = ranks_.world_size();
  record.learning_rate =
      learning_rate(config_.schedule, config_.optimizer.learning_rate, record.step, config_.train.steps);

  RankNumbers own;
  own.labels = label_count(step.batch);
  const at::Tensor labels = total_labels(own.labels);
  const std::vector<MicroBatch> parts = split(step.batch);
  phase_ends(StepPhase::data);
  for (const MicroBatch& part : parts) {
    const LossSum sum = loss_of(part);
    phase_ends(StepPhase::forward);
    optimizer_.begin_backward(&part == &parts.back() ? BackwardPass::last : BackwardPass::more_follow);
    // Divided by the labels of the whole step, so the split into micro-batches and ranks changes nothing.
    (sum.loss_sum / labels).backward();
    phase_ends(StepPhase::backward);
    own.nll_sums.push_back(sum.nll_sum);
    own.loss_sums.push_back(sum.loss_sum.detach());
    own.flops += flops_.of(part.layout, step.batch.context_length);
  }
  optimizer_.reduce_gradients();
  phase_ends(StepPhase::reduce);
  record.reduced_bytes = optimizer_.reduced_bytes();
  own.memory_bytes = peak_memory_bytes(device) + ranks_.allocated_bytes();
  own.stop_signal = stop_signal();
  step.layout = StepNumbers(static_cast<int64_t>(parts.size()), ranks_);
  step.numbers = to_host(optimizer_.measure_gradients(step.layout.pack(own, device)));
  step.numbers_ready = DeviceMark(device);
  update(step);
  phase_ends(StepPhase::optimizer);
  end_ = step.phase_ends.back().second;
  launched_ = record.step;
  record.memory_bytes = peak_memory_bytes(device) + ranks_.allocated_bytes();
  record.launch_seconds = timer.seconds();
  return step;
}

/// Labels of the step, a number on the device that is at least 1.
at::Tensor Trainer::total_labels(int64_t own) {
  at::Tensor labels = at::full({}, own, at::TensorOptions(at::kDouble).device(model_->device()));
  ranks_.all_reduce(labels, Reduction::sum)->wait();
  return labels.clamp_min_(1);
}

void Trainer::update(PendingStep& step) {
  if (outliers_.is_active()) {
    read_numbers(step);
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
  if (step.record.step == launched_) {  // no other is under way
    optimizer_.wait_for_weights();      // whoever reads weights now finds them
    end_.reset();
  }
  signal_ = step.layout.stop_signal(step.numbers);
  state_.step = step.record.step;
  ranks_.set_step(state_.step);
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

/// Nothing where a stop signal ends the wait of a rank that is alone.
std::optional<Batch> Trainer::next_batch(StepRecord& record) {
  constexpr auto kBetweenLooks = std::chrono::milliseconds(100);
  const Timer timer;
  while (ranks_.world_size() == 1 && !loader_->wait(kBetweenLooks)) {
    if (stop_signal() != 0) return std::nullopt;
  }
  Batch batch = loader_->next();
  record.data_wait_ms = timer.milliseconds();
  record.step_tokens = config_.train.global_batch_size * batch.context_length;
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

/// The weights of other ranks' parts may still be on their way; each layer waits for its own.
LossSum Trainer::loss_of(const MicroBatch& part) {
  optimizer_.wait_for_weights(1);  // the embedding
  const at::Tensor hidden =        // [b, L, hidden]
      model_->forward(part.tokens, part.layout, config_.train.memory,
                      [&](int64_t layer) { optimizer_.wait_for_weights(through_layers_[static_cast<size_t>(layer)]); });
  return linear_cross_entropy(hidden.flatten(0, 1), model_->output_weight(), part.labels, config_.train.loss);
}

/// Waits for the step's numbers; throws where they say that no weight may change.
void Trainer::read_numbers(PendingStep& step) const {
  step.numbers_ready.wait();
  ranks_.check();
  step.layout.write_to(step.record, step.numbers);
  if (config_.train.loss.z_loss == 0) step.record.z_loss = 0;  // no difference of two sums' rounding
  require_finite(step);
}

void Trainer::require_finite(const PendingStep& step) const {
  const StepRecord& record = step.record;
  const auto bad = step.layout.bad_loss(step.numbers);
  if (!bad && std::isfinite(record.grad_norm)) return;
  std::string own;
  if (!bad) {
    own = batch_name() + describe_documents(step.batch, 0, step.batch.rows);
  } else if (bad->rank == ranks_.rank()) {
    const int64_t row = bad->micro_batch * config_.train.micro_batch_size;
    own = str("Rows ", row + ranks_.rank() * step.batch.rows,
              " and on of the batch: ", describe_documents(step.batch, row, config_.train.micro_batch_size));
  }
  // All end with all of it: a rank that is the first to end must not take the others' documents along.
  std::string documents;
  for (const std::string& text : ranks_.exchange(str("not finite/step-", record.step), own)) {
    if (!text.empty()) documents += " " + text;
  }
  const std::string what =
      bad ? str("the loss is ", bad->value) : str("the gradient norm is ", record.grad_norm, " at loss ", record.loss);
  fail(ExitCode::numerics, "step ", record.step, ": ", what, "; no weight has changed since step ", record.step - 1,
       ".", documents);
}

/// What introduces the documents of this rank's rows.
std::string Trainer::batch_name() const {
  return ranks_.world_size() == 1 ? "The batch: " : str("Rank ", ranks_.rank(), "'s part of the batch: ");
}

void Trainer::skip_update(const StepRecord& record, const Batch& batch) {
  optimizer_.discard_gradients();
  if (!ranks_.is_first()) return;
  log::warning("step ", record.step, ": no update, the gradient norm ", record.grad_norm, " is beyond ",
               config_.train.skip_outliers.factor, " times the median ", outliers_.median(), " (",
               outliers_.state().skipped, " skipped so far). ", batch_name(), describe_documents(batch, 0, batch.rows));
}

void Trainer::report(const StepRecord& record) {
  if (log_) log_->add(record);
}

void Trainer::save() {
  if (saved_step_ == state_.step && !writer_.has_failed()) return;
  state_.optimizer_updates = optimizer_.updates();
  state_.outliers = outliers_.state();
  state_.loader = loader_->state();
  if (log_) state_.metrics_bytes = log_->sync();
  const Snapshot snapshot = config_.checkpoint.background ? Snapshot::copied : Snapshot::live;
  const Share rank{ranks_.rank(), ranks_.world_size()};
  writer_.submit(make_checkpoint(state_, *model_, description_, optimizer_, snapshot, rank));
  saved_step_ = state_.step;
}

ExitCode Trainer::stop(int signal) {
  save();
  finish_saving();
  log::show_status("");
  log::info("stopped by ", stop_name(signal), " after step ", state_.step,
            ", which is saved; --resume goes on from there");
  return stop_code(signal);
}

}  // namespace dga

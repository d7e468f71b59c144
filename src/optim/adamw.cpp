#include "optim/adamw.h"

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <utility>

#include "optim/streamed_update.h"
#include "util/error.h"

namespace dga {
namespace {

at::ScalarType moment_dtype(MomentsKind kind, at::ScalarType weight_type) {
  switch (kind) {
    case MomentsKind::fp32:
      return weight_type == at::kDouble ? at::kDouble : at::kFloat;
    case MomentsKind::bf16:
      return at::kBFloat16;
    case MomentsKind::int8:
      return at::kChar;
  }
  fail(ExitCode::failure, "unknown kind of moments");
}

StoredMoment make_moment(int64_t size, at::TensorOptions options) {
  StoredMoment moment{at::zeros({size}, options), {}};
  const bool has_scales = c10::typeMetaToScalarType(options.dtype()) == at::kChar ||
                          c10::typeMetaToScalarType(options.dtype()) == at::kByte;
  if (has_scales) moment.scales = at::zeros({size / kMomentBlock}, options.dtype(at::kFloat));
  return moment;
}

}  // namespace

AdamW::AdamW(const OptimizerConfig& config, uint64_t seed, std::vector<TrainedParameter> parameters, GradientSum sum)
    : config_(config),
      seed_(seed),
      parameters_(std::move(parameters)),
      layout_(config, parameters_),
      share_(layout_, ShardLevel::none, 0, 1) {
  DGA_CHECK(!parameters_.empty(), "an optimizer needs parameters");
  const at::NoGradGuard no_grad;
  const at::TensorOptions options = parameters_.front().value.options();
  const at::ScalarType type = parameters_.front().value.scalar_type();
  for (const TrainedParameter& parameter : parameters_) {
    DGA_CHECK(parameter.value.scalar_type() == type && parameter.value.device() == options.device(), parameter.name,
              " is of another type or device than ", parameters_.front().name);
  }
  move_parameters();
  const bool wider = type == at::kBFloat16 && sum == GradientSum::fp32;
  gradients_ = at::zeros({layout_.size}, wider ? options.dtype(at::kFloat) : options);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    sinks_.push_back(std::make_shared<GradientSink>(GradientSink{layout_.slots[i].view_in(gradients_), false}));
    attach_gradient_sink(parameters_[i].value, sinks_.back());
  }
  make_state();
  stop_ = at::zeros({}, options.dtype(at::kInt));
}

void AdamW::make_state() {
  const at::ScalarType type = state_.weight.scalar_type();
  on_host_ = config_.offload == OptimizerOffload::host && state_.weight.is_cuda();
  at::TensorOptions options = state_.weight.options();
  if (on_host_) options = options.device(at::kCPU).pinned_memory(true);
  if (type == at::kBFloat16) state_.weight_low = at::zeros({layout_.size}, options.dtype(at::kShort));
  const at::ScalarType first = moment_dtype(config_.moments, type);
  state_.exp_avg = make_moment(layout_.size, options.dtype(first));
  state_.exp_avg_sq = make_moment(layout_.size, options.dtype(first == at::kChar ? at::kByte : first));
}

AdamW::~AdamW() {
  for (const TrainedParameter& parameter : parameters_) detach_gradient_sink(parameter.value);
}

/// Each parameter keeps its identity and takes over a view of the flat tensor as its storage.
void AdamW::move_parameters() {
  state_.weight = at::zeros({layout_.size}, parameters_.front().value.options());
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const at::Tensor view = layout_.slots[i].view_in(state_.weight);
    view.copy_(parameters_[i].value);
    parameters_[i].value.set_data(view);
  }
  // What the parameters lay in before is free, but in pieces that nothing else fits into.
  if (!state_.weight.is_cpu()) at::getDeviceAllocator(state_.weight.device().type())->emptyCache();
}

void AdamW::fill_empty_gradients() {
  for (const auto& sink : sinks_) {
    if (!sink->filled) sink->sum.zero_();
  }
}

at::Tensor AdamW::measure_gradients(const at::Tensor& losses) {
  const at::NoGradGuard no_grad;
  fill_empty_gradients();
  const GradientNorm measured = gradient_norm(gradients_, losses, config_.clip_norm, stop_);
  clip_factor_ = measured.factor;
  return measured.norm;
}

AdamWRange AdamW::range(FlatRange numbers) const {
  const auto cut = [&](const at::Tensor& flat) {
    return flat.defined() ? flat.slice(0, numbers.begin, numbers.end) : flat;
  };
  return {numbers.begin,
          cut(state_.weight),
          cut(state_.weight_low),
          cut(gradients_),
          state_.exp_avg.slice(numbers.begin, numbers.end),
          state_.exp_avg_sq.slice(numbers.begin, numbers.end)};
}

void AdamW::update(double learning_rate) {
  DGA_CHECK(clip_factor_.defined(), "an update needs the norm of its gradients");
  const at::NoGradGuard no_grad;
  ++updates_;
  AdamWStep step;
  step.learning_rate = learning_rate;
  step.beta1 = config_.betas[0];
  step.beta2 = config_.betas[1];
  step.epsilon = config_.epsilon;
  step.updates = updates_;
  step.seed = seed_;
  step.factor = std::exchange(clip_factor_, at::Tensor());
  step.stop = stop_;
  step.weight_decay = config_.weight_decay;
  update_range({0, layout_.decayed_end}, step);
  step.weight_decay = 0;
  update_range({layout_.decayed_end, layout_.size}, step);
  discard_gradients();
}

void AdamW::update_range(FlatRange numbers, const AdamWStep& step) const {
  if (numbers.size() == 0) return;
  if (on_host_) {
    streamed_adamw_update(range(numbers), step);
  } else {
    adamw_update(range(numbers), step);
  }
}

void AdamW::discard_gradients() {
  for (const auto& sink : sinks_) sink->filled = false;
}

std::vector<StatePiece> AdamW::owned_pieces(const OptimizerState& state) const {
  return pieces_of(state, layout_, share_.owned);
}

void AdamW::restore(const SavedTensors& saved, int64_t updates) {
  restore_state(state_, layout_, share_.held, saved);
  updates_ = updates;
}

}  // namespace dga

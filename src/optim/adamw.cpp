#include "optim/adamw.h"

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <utility>

#include "optim/streamed_update.h"
#include "tensor/dtype.h"
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

/// A slot's part of a live tensor, brought to the host when it is asked for.
TensorSource source_of(const at::Tensor& part) {
  return {part.scalar_type(), part.sizes().vec(), [part] { return part.to(at::kCPU); }};
}

}  // namespace

OptimizerState OptimizerState::copy_to_host() const {
  const auto copy = [](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.to(at::kCPU, tensor.scalar_type(), /*non_blocking=*/false, /*copy=*/true) : tensor;
  };
  return {copy(weight),
          copy(weight_low),
          {copy(exp_avg.numbers), copy(exp_avg.scales)},
          {copy(exp_avg_sq.numbers), copy(exp_avg_sq.scales)}};
}

std::map<std::string, TensorSource> OptimizerState::tensors(const FlatLayout& layout) const {
  std::map<std::string, TensorSource> sources;
  for (const FlatSlot& slot : layout.slots) {
    for (const auto& [name, moment] : {std::pair("exp_avg", &exp_avg), std::pair("exp_avg_sq", &exp_avg_sq)}) {
      sources[str(name, ".", slot.name)] = source_of(slot.view_in(moment->numbers));
      if (!moment->scales.defined()) continue;
      sources[str(name, "_scale.", slot.name)] = source_of(slot.scales_in(moment->scales));
    }
    if (!weight_low.defined()) continue;
    const at::Tensor high = slot.view_in(weight), low = slot.view_in(weight_low);
    sources["master." + slot.name] = {at::kFloat, slot.shape,
                                      [high, low] { return join_masters(high.to(at::kCPU), low.to(at::kCPU)); }};
  }
  return sources;
}

AdamW::AdamW(const OptimizerConfig& config, uint64_t seed, std::vector<TrainedParameter> parameters, GradientSum sum)
    : config_(config), seed_(seed), parameters_(std::move(parameters)), layout_(config, parameters_) {
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

void AdamW::restore_tensor(const NamedTensors& saved, const std::string& name, const at::Tensor& live) const {
  const auto found = saved.find(name);
  DGA_CHECK_INPUT(found != saved.end(), "optimizer state lacks tensor ", name);
  DGA_CHECK_INPUT(found->second.sizes() == live.sizes(), "optimizer state ", name, " has shape ", found->second.sizes(),
                  ", the parameter ", live.sizes());
  DGA_CHECK_INPUT(found->second.scalar_type() == live.scalar_type(), "optimizer state ", name, " is of type ",
                  safetensors_name(found->second.scalar_type()), ", optimizer.moments asks for ",
                  safetensors_name(live.scalar_type()));
  at::Tensor target = live;
  target.copy_(found->second);
}

void AdamW::restore_master(const NamedTensors& saved, const FlatSlot& slot) {
  at::Tensor master = at::empty(slot.shape, at::kFloat);
  restore_tensor(saved, "master." + slot.name, master);
  const at::Tensor high = at::empty(slot.shape, at::kBFloat16), low = at::empty(slot.shape, at::kShort);
  split_masters(master, high, low);
  slot.view_in(state_.weight).copy_(high);
  slot.view_in(state_.weight_low).copy_(low);
}

void AdamW::restore(const NamedTensors& saved, int64_t updates) {
  const at::NoGradGuard no_grad;
  for (const FlatSlot& slot : layout_.slots) {
    for (const auto& [name, moment] :
         {std::pair("exp_avg", &state_.exp_avg), std::pair("exp_avg_sq", &state_.exp_avg_sq)}) {
      restore_tensor(saved, str(name, ".", slot.name), slot.view_in(moment->numbers));
      if (!moment->scales.defined()) continue;
      restore_tensor(saved, str(name, "_scale.", slot.name), slot.scales_in(moment->scales));
    }
    if (state_.weight_low.defined()) restore_master(saved, slot);
  }
  updates_ = updates;
}

}  // namespace dga

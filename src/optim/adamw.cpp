#include "optim/adamw.h"

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
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

FlatCut cut_for(const DataParallel& parallel, const GradientPlan& plan, int64_t ranks) {
  if (ranks == 1) return {};
  return {ranks, parallel.bucket_bytes / static_cast<int64_t>(c10::elementSize(plan.reduced))};
}

std::vector<TrainedParameter> checked(std::vector<TrainedParameter> parameters) {
  DGA_CHECK(!parameters.empty(), "an optimizer needs parameters");
  const at::Tensor& first = parameters.front().value;
  for (const TrainedParameter& parameter : parameters) {
    DGA_CHECK(parameter.value.scalar_type() == first.scalar_type() && parameter.value.device() == first.device(),
              parameter.name, " is of another type or device than ", parameters.front().name);
  }
  return parameters;
}

}  // namespace

AdamW::AdamW(const OptimizerConfig& config, uint64_t seed, std::vector<TrainedParameter> parameters, GradientSum sum,
             const DataParallel& parallel)
    : config_(config),
      seed_(seed),
      single_(parallel.ranks == nullptr ? make_single_communicator() : nullptr),
      ranks_(parallel.ranks == nullptr ? *single_ : *parallel.ranks),
      parameters_(checked(std::move(parameters))),
      plan_(plan_gradients(parallel, ranks_.world_size(), parameters_.front().value.scalar_type(), sum)),
      layout_(config, parameters_, cut_for(parallel, plan_, ranks_.world_size())),
      share_(layout_, plan_.level, ranks_.rank(), ranks_.world_size()) {
  const at::NoGradGuard no_grad;
  move_parameters();
  gradients_ = std::make_unique<GradientReduction>(parameters_, layout_, share_, plan_, ranks_);
  make_state();
  stop_ = at::zeros({}, state_.weight.options().dtype(at::kInt));
}

void AdamW::make_state() {
  const at::ScalarType type = state_.weight.scalar_type();
  on_host_ = config_.offload == OptimizerOffload::host && state_.weight.is_cuda();
  at::TensorOptions options = state_.weight.options();
  if (on_host_) options = options.device(at::kCPU).pinned_memory(true);
  const int64_t size = share_.state_size;
  if (type == at::kBFloat16) state_.weight_low = at::zeros({size}, options.dtype(at::kShort));
  const at::ScalarType first = moment_dtype(config_.moments, type);
  state_.exp_avg = make_moment(size, options.dtype(first));
  state_.exp_avg_sq = make_moment(size, options.dtype(first == at::kChar ? at::kByte : first));
}

/// Each parameter keeps its identity and takes over a view of the flat tensor as its storage.
void AdamW::move_parameters() {
  state_.weight = ranks_.allocate(layout_.size, parameters_.front().value.options());
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const at::Tensor view = layout_.slots[i].view_in(state_.weight);
    view.copy_(parameters_[i].value);
    parameters_[i].value.set_data(view);
  }
  // What the parameters lay in before is free, but in pieces that nothing else fits into.
  if (!state_.weight.is_cpu()) at::getDeviceAllocator(state_.weight.device().type())->emptyCache();
}

at::Tensor AdamW::measure_gradients(const at::Tensor& sums) {
  const at::NoGradGuard no_grad;
  gradients_->finish();
  std::vector<at::Tensor> squares;
  for (const at::Tensor& gradient : gradients_->owned_gradients()) squares.push_back(sum_of_squares(gradient));
  const at::Tensor total = squares.size() == 1 ? squares.front() : at::stack(squares).sum();
  const at::Tensor numbers = at::cat({sums, total.view({1})});
  ranks_.all_reduce(numbers, Reduction::sum)->wait();
  const int64_t count = sums.numel();
  const GradientNorm measured = gradient_norm(numbers[count], numbers.narrow(0, 0, count), config_.clip_norm, stop_);
  clip_factor_ = measured.factor;
  numbers[count].copy_(measured.norm);
  return numbers;
}

AdamWRange AdamW::range(const HeldRange& held) const {
  const int64_t begin = held.at, end = held.at + held.numbers.size();
  return {held.first,
          state_.weight.slice(0, held.numbers.begin, held.numbers.end),
          state_.weight_low.defined() ? state_.weight_low.slice(0, begin, end) : state_.weight_low,
          gradients_->gradient_of(held),
          state_.exp_avg.slice(begin, end),
          state_.exp_avg_sq.slice(begin, end)};
}

void AdamW::update(double learning_rate) {
  DGA_CHECK(clip_factor_.defined(), "an update needs the norm of its gradients");
  const at::NoGradGuard no_grad;
  wait_for_weights();
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
  const auto undecayed = std::ranges::find(share_.held, false, &HeldRange::decayed);
  // Norms and embedding first, as the forward pass needs them.
  step.weight_decay = 0;
  update_ranges({undecayed, share_.held.end()}, step);
  step.weight_decay = config_.weight_decay;
  update_ranges({share_.held.begin(), undecayed}, step);
  discard_gradients();
}

void AdamW::wait_for_weights(size_t count) {
  std::erase_if(gathers_, [count](const Gather& gather) {
    if (gather.earliest >= count) return false;
    gather.pending->wait();
    return true;
  });
}

void AdamW::update_ranges(const std::vector<HeldRange>& held, const AdamWStep& step) {
  std::vector<AdamWRange> ranges;
  for (const HeldRange& one : held) ranges.push_back(range(one));
  if (on_host_) {
    streamed_adamw_update(ranges, step, [&](size_t i) { gather_weights(held[i]); });
    return;
  }
  for (size_t i = 0; i < held.size(); ++i) {
    adamw_update(ranges[i], step);
    gather_weights(held[i]);
  }
}

/// Begins to put the ranks' parts of a bucket together.
void AdamW::gather_weights(const HeldRange& part) {
  if (plan_.level == ShardLevel::none) return;
  const int64_t size = part.numbers.size(), begin = part.numbers.begin - ranks_.rank() * size;
  gathers_.push_back({part.earliest, ranks_.all_gather(state_.weight.narrow(0, begin, size * ranks_.world_size()),
                                                       state_.weight.narrow(0, part.numbers.begin, size))});
}

void AdamW::discard_gradients() { gradients_->clear(); }

std::vector<StatePiece> AdamW::owned_pieces(const OptimizerState& state) const {
  return pieces_of(state, layout_, share_.owned);
}

void AdamW::restore(const SavedTensors& saved, int64_t updates) {
  const at::NoGradGuard no_grad;
  restore_state(state_, layout_, share_.held, saved);
  // A master says more about a bf16 weight than the weight that was saved beside it.
  if (state_.weight_low.defined()) {
    for (const HeldRange& held : share_.held) gather_weights(held);
    wait_for_weights();
  }
  updates_ = updates;
}

}  // namespace dga

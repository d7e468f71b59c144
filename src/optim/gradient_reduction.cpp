#include "optim/gradient_reduction.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "util/error.h"

namespace dga {
namespace {

/// Reductions that go on beside backward before it waits for the first of them, where it needs their memory.
constexpr size_t kFlights = 2;

at::Tensor cut(const at::Tensor& flat, FlatRange numbers) { return flat.slice(0, numbers.begin, numbers.end); }

int64_t largest_bucket(const FlatLayout& layout) {
  int64_t largest = 0;
  for (const FlatGroup& group : layout.groups) {
    for (const FlatRange& bucket : group.buckets) largest = std::max(largest, bucket.size());
  }
  return largest;
}

}  // namespace

GradientPlan plan_gradients(const DataParallel& parallel, int64_t ranks, at::ScalarType weights, GradientSum sum) {
  const at::ScalarType wide = weights == at::kDouble ? at::kDouble : at::kFloat;
  const at::ScalarType local = sum == GradientSum::fp32 ? wide : weights;
  if (ranks == 1) return {ShardLevel::none, local, local, local};
  const at::ScalarType reduced = parallel.reduce == ReduceType::fp32 ? wide : at::kBFloat16;
  switch (parallel.level) {
    case ShardLevel::none:
      return {parallel.level, local, reduced, local};
    case ShardLevel::optimizer:
      return {parallel.level, local, reduced, reduced == wide ? wide : local};
    case ShardLevel::optimizer_gradients: {
      const at::ScalarType made = reduced == wide ? local : reduced;
      return {parallel.level, made, reduced, reduced == local ? local : wide};
    }
  }
  fail(ExitCode::failure, "unknown level of sharding");
}

GradientReduction::GradientReduction(const std::vector<TrainedParameter>& parameters, const FlatLayout& layout,
                                     const RankShare& share, const GradientPlan& plan, Communicator& ranks)
    : layout_(layout),
      share_(share),
      plan_(plan),
      ranks_(ranks),
      options_(parameters.front().value.options()),
      group_buffer_(layout.groups.size()),
      progress_(layout) {
  size_t buckets = 0;
  for (const FlatGroup& group : layout.groups) {
    first_bucket_.push_back(buckets);
    buckets += group.buckets.size();
  }
  const bool sharded = plan.level == ShardLevel::optimizer_gradients;
  if (!sharded) whole_ = ranks.allocate(layout.size, options_.dtype(plan.local));
  if (sharded || plan.owned != plan.local) owned_ = at::zeros({share.state_size}, options_.dtype(plan.owned));
  if (is_staged()) {
    for (size_t i = 0; i < kFlights; ++i) {
      staging_.push_back(at::empty({largest_bucket(layout)}, options_.dtype(plan.reduced)));
    }
  }
  sinks_.resize(parameters.size());
  for (size_t group = 0; group < layout.groups.size(); ++group) {
    for (const size_t slot : layout.groups[group].slots) {
      auto sink = std::make_shared<GradientSink>();
      if (whole_.defined()) sink->sum = layout.slots[slot].view_in(whole_);
      sink->provide_memory = [this, group, name = parameters[slot].name] {
        DGA_CHECK(!progress_.was_taken(group), "a gradient of ", name, " came after its reduction");
        provide_memory(group);
      };
      if (ranks.world_size() > 1) sink->on_complete = [this, slot] { complete(slot); };
      attach_gradient_sink(parameters[slot].value, sink);
      parameters_.push_back(parameters[slot].value);
      sinks_[slot] = std::move(sink);
    }
  }
}

GradientReduction::~GradientReduction() {
  for (const at::Tensor& parameter : parameters_) detach_gradient_sink(parameter);
}

void GradientReduction::begin(BackwardPass pass) {
  if (has_buffers() && passes_ > 0) reduce_left();
  ++passes_;
  pass_ = pass;
  progress_.restart();
}

void GradientReduction::finish() {
  if (finished_) return;
  reduce_left();
  while (!flights_.empty()) land_first();
  finished_ = true;
}

void GradientReduction::clear() {
  for (const auto& sink : sinks_) sink->filled = false;
  progress_.restart();
  passes_ = 0;
  finished_ = false;
  reduced_bytes_ = 0;
}

at::Tensor GradientReduction::gradient_of(const HeldRange& range) const {
  return owned_.defined() ? owned_.narrow(0, range.at, range.numbers.size()) : cut(whole_, range.numbers);
}

std::vector<at::Tensor> GradientReduction::owned_gradients() const {
  if (owned_.defined()) return {owned_};
  std::vector<FlatRange> ranges;
  for (const HeldRange& range : share_.owned) {
    if (!ranges.empty() && ranges.back().end == range.numbers.begin) {
      ranges.back().end = range.numbers.end;
    } else {
      ranges.push_back(range.numbers);
    }
  }
  std::vector<at::Tensor> gradients;
  for (const FlatRange& range : ranges) gradients.push_back(cut(whole_, range));
  return gradients;
}

/// Gives the sinks of a group their places in a buffer.
void GradientReduction::provide_memory(size_t group) {
  const FlatGroup& which = layout_.groups[group];
  group_buffer_[group] = take_buffer(which.numbers.size());
  const at::Tensor& memory = *group_buffer_[group];
  int64_t filled_to = 0;
  for (const size_t slot : which.slots) {
    const FlatSlot& place = layout_.slots[slot];
    const int64_t begin = place.begin - which.numbers.begin;
    memory.slice(0, filled_to, begin).zero_();  // the padding
    filled_to = begin + place.count;
    sinks_[slot]->sum = memory.slice(0, begin, filled_to).view(at::IntArrayRef(place.shape));
  }
  memory.slice(0, filled_to, which.numbers.size()).zero_();
}

/// The smallest that is free and large enough. There are soon as many as groups are open at the same time, and
/// kFlights: the first step makes them, and every step has the same order.
GradientReduction::Buffer GradientReduction::take_buffer(int64_t numbers) {
  for (;;) {
    Buffer* best = nullptr;
    for (Buffer& buffer : buffers_) {
      if (buffer.use_count() > 1 || buffer->numel() < numbers) continue;
      if (best == nullptr || buffer->numel() < (*best)->numel()) best = &buffer;
    }
    if (best != nullptr) return *best;
    if (flights_.size() < kFlights) break;
    land_first();
  }
  return buffers_.emplace_back(std::make_shared<at::Tensor>(ranks_.allocate(numbers, options_.dtype(plan_.local))));
}

void GradientReduction::complete(size_t slot) {
  if (!has_buffers() && pass_ == BackwardPass::more_follow) return;
  progress_.complete(slot);
  while (const std::optional<size_t> group = progress_.take_complete()) reduce_group(*group);
}

void GradientReduction::reduce_left() {
  while (const std::optional<size_t> group = progress_.take_left()) reduce_group(*group);
}

void GradientReduction::reduce_group(size_t group) {
  const at::NoGradGuard no_grad;
  const FlatGroup& which = layout_.groups[group];
  if (has_buffers() && !group_buffer_[group]) provide_memory(group);
  for (const size_t slot : which.slots) {
    if (!sinks_[slot]->filled) sinks_[slot]->sum.zero_();
  }
  const Buffer buffer = std::exchange(group_buffer_[group], nullptr);
  for (size_t i = 0; i < which.buckets.size(); ++i) {
    const FlatRange bucket = which.buckets[i];
    const FlatRange in_buffer{bucket.begin - which.numbers.begin, bucket.end - which.numbers.begin};
    reduce_bucket(buffer ? cut(*buffer, in_buffer) : cut(whole_, bucket), first_bucket_[group] + i, buffer);
  }
  if (!buffer) return;
  for (const size_t slot : which.slots) {
    sinks_[slot]->sum.reset();
    sinks_[slot]->filled = false;
  }
}

/// A sum that the ranks share out may be of a wider type than its input; any other sum has its input's type.
bool GradientReduction::is_staged() const {
  const bool widens = plan_.level != ShardLevel::none && plan_.reduced == at::kFloat;
  return plan_.reduced != plan_.local && !widens;
}

/// A bucket in the type that the reduction takes.
at::Tensor GradientReduction::staged(const at::Tensor& local) {
  if (staging_.empty()) return local;
  while (flights_.size() >= kFlights) land_first();
  at::Tensor copy = staging_[static_cast<size_t>(staged_++) % kFlights].narrow(0, 0, local.numel());
  return copy.copy_(local);
}

void GradientReduction::reduce_bucket(const at::Tensor& local, size_t bucket, const Buffer& buffer) {
  const at::Tensor summed = staged(local);
  const bool adds = has_buffers() && passes_ > 1;
  Flight flight;
  if (plan_.level == ShardLevel::none) {
    flight.pending = ranks_.all_reduce(summed, Reduction::sum);
    flight.result = summed;
    flight.target = local;
  } else {
    const int64_t part = summed.numel() / ranks_.world_size();
    flight.target = gradient_of(share_.owned[bucket]);
    if (summed.scalar_type() == plan_.reduced) {
      flight.result = summed.narrow(0, ranks_.rank() * part, part);
    } else {
      flight.result = adds ? at::empty_like(flight.target) : flight.target;
    }
    flight.pending = ranks_.reduce_scatter(flight.result, summed);
  }
  flight.adds = adds;
  flight.buffer = buffer;
  flights_.push_back(std::move(flight));
  if (ranks_.world_size() > 1) reduced_bytes_ += static_cast<int64_t>(summed.nbytes());
}

void GradientReduction::land_first() {
  const at::NoGradGuard no_grad;
  Flight flight = std::move(flights_.front());
  flights_.pop_front();
  flight.pending->wait();
  if (flight.target.data_ptr() == flight.result.data_ptr()) return;
  if (flight.adds) {
    flight.target.add_(flight.result);
  } else {
    flight.target.copy_(flight.result);
  }
}

}  // namespace dga

#include "optim/flat_layout.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "ops/adamw.h"

namespace dga {
namespace {

int64_t round_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

/// Parameters (by index, of padded sizes `counts`) in groups that fit into a bucket. Filled from the end, so that the
/// group that backward completes last, whose reduction nothing hides, is the smaller one.
std::vector<std::vector<size_t>> groups_of(const std::vector<size_t>& members, const std::vector<int64_t>& counts,
                                           int64_t bucket_numbers) {
  std::vector<std::vector<size_t>> groups;
  int64_t filled = 0;
  for (auto member = members.rbegin(); member != members.rend(); ++member) {
    if (groups.empty() || counts[*member] > bucket_numbers - filled) {
      groups.emplace_back();
      filled = 0;
    }
    groups.back().insert(groups.back().begin(), *member);
    filled += counts[*member];
  }
  std::ranges::reverse(groups);
  return groups;
}

}  // namespace

bool is_decayed(const OptimizerConfig& config, const TrainedParameter& parameter) {
  if (config.decay_norms_and_embeddings) return true;
  return parameter.value.dim() > 1 && !parameter.name.ends_with("embed_tokens.weight");
}

at::Tensor FlatSlot::view_in(const at::Tensor& flat) const {
  return flat.narrow(0, begin, count).view(at::IntArrayRef(shape));
}

FlatLayout::FlatLayout(const OptimizerConfig& config, const std::vector<TrainedParameter>& parameters,
                       const FlatCut& cut) {
  std::vector<int64_t> counts;
  for (const TrainedParameter& parameter : parameters) {
    slots.push_back({parameter.name, parameter.value.sizes().vec(), 0, parameter.value.numel()});
    counts.push_back(round_up(parameter.value.numel(), kMomentBlock));
  }
  int64_t place = 0;
  for (const bool decayed : {true, false}) {
    std::vector<size_t> members;
    for (size_t i = 0; i < slots.size(); ++i) {
      if (is_decayed(config, parameters[i]) == decayed) members.push_back(i);
    }
    for (std::vector<size_t>& group : groups_of(members, counts, cut.bucket_numbers)) {
      add_group(std::move(group), cut, place);
    }
    if (decayed) decayed_end = size;
  }
}

void FlatLayout::add_group(std::vector<size_t> members, const FlatCut& cut, int64_t& place) {
  const int64_t unit = cut.ranks * kMomentBlock;
  FlatGroup group;
  group.first = place;
  group.earliest = members.front();
  group.numbers.begin = size;
  for (const size_t member : members) {
    slots[member].begin = size;
    size += round_up(slots[member].count, kMomentBlock);
  }
  place += size - group.numbers.begin;
  size = round_up(size, unit);
  group.numbers.end = size;
  group.slots = std::move(members);
  const int64_t step = std::max(unit, round_up(std::min(cut.bucket_numbers, group.numbers.size()), unit));
  for (int64_t begin = group.numbers.begin; begin < size; begin += step) {
    group.buckets.push_back({begin, std::min(size, begin + step)});
  }
  groups.push_back(std::move(group));
}

}  // namespace dga

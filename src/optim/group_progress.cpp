#include "optim/group_progress.h"

#include <algorithm>
#include <numeric>

#include "util/error.h"

namespace dga {

GroupProgress::GroupProgress(const FlatLayout& layout)
    : layout_(layout), order_(layout.groups.size()), group_of_(layout.slots.size()) {
  std::iota(order_.begin(), order_.end(), size_t{0});
  std::ranges::sort(order_, std::ranges::greater(), [&](size_t group) { return layout.groups[group].earliest; });
  for (size_t group = 0; group < layout.groups.size(); ++group) {
    for (const size_t slot : layout.groups[group].slots) group_of_[slot] = group;
  }
  restart();
}

void GroupProgress::restart() {
  complete_.assign(layout_.slots.size(), false);
  taken_.assign(layout_.groups.size(), false);
  missing_.clear();
  for (const FlatGroup& group : layout_.groups) missing_.push_back(group.slots.size());
  next_ = 0;
}

void GroupProgress::complete(size_t slot) {
  DGA_CHECK(!complete_[slot], "the gradient of ", layout_.slots[slot].name, " is complete twice in a backward pass");
  DGA_CHECK(!taken_[group_of_[slot]], "the gradient of ", layout_.slots[slot].name, " came after its reduction");
  complete_[slot] = true;
  --missing_[group_of_[slot]];
}

std::optional<size_t> GroupProgress::take_complete() {
  if (next_ == order_.size() || missing_[order_[next_]] != 0) return std::nullopt;
  return take_left();
}

std::optional<size_t> GroupProgress::take_left() {
  if (next_ == order_.size()) return std::nullopt;
  const size_t group = order_[next_++];
  taken_[group] = true;
  return group;
}

}  // namespace dga

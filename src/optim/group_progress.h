#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "optim/flat_layout.h"

namespace dga {

/// How far a backward pass is with the groups of the flat space. They are handed out in an order that the layout alone
/// decides, so that all ranks have the same: in that in which backward completes them.
class GroupProgress {
 public:
  explicit GroupProgress(const FlatLayout& layout);

  /// A pass begins: nothing is complete.
  void restart();
  /// Nothing more will arrive for this slot in the pass. Throws if that was said before.
  void complete(size_t slot);
  /// The next group, if it is complete; each only once in a pass.
  std::optional<size_t> take_complete();
  /// The next group, complete or not, for the end of a pass.
  std::optional<size_t> take_left();
  bool was_taken(size_t group) const { return taken_[group]; }

 private:
  const FlatLayout& layout_;
  std::vector<size_t> order_;     // groups as they are handed out
  std::vector<size_t> group_of_;  // by slot
  std::vector<bool> complete_;    // by slot
  std::vector<size_t> missing_;   // by group: slots that are not complete
  std::vector<bool> taken_;       // by group
  size_t next_ = 0;               // in order_
};

}  // namespace dga

#pragma once

#include <algorithm>
#include <cstdint>

namespace dga::kernels {

/// How many heads to run side by side so that what they read again and again (bytes_per_head) stays in L2. Divides
/// `heads`, and is a multiple of `group` where it can be, so that query heads of one KV head run together.
inline int heads_per_section(int64_t heads, int64_t group, int64_t bytes_per_head) {
  constexpr int64_t kL2Bytes = int64_t{32} << 20;  // of Hopper's 50 MiB, leaving room for what streams through
  int64_t section = std::clamp<int64_t>(kL2Bytes / std::max<int64_t>(bytes_per_head, 1), 1, heads);
  if (section > group) section -= section % group;
  while (heads % section != 0) --section;
  return static_cast<int>(section);
}

}  // namespace dga::kernels

#pragma once

#include <cstdint>

namespace dga {

/// One of `count` that deal things out among themselves in turn; alone by default.
struct Share {
  int64_t index = 0;
  int64_t count = 1;

  /// Whether the i-th thing is this one's.
  bool has(int64_t i) const { return i % count == index; }
};

}  // namespace dga

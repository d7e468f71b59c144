#pragma once

#include <cstdint>

#include "config/fields.h"

namespace dga {

/// Section `checkpoint`. A run also saves at its last step and when it is asked to stop.
struct CheckpointConfig {
  int64_t every_steps = 500;
  int64_t keep_last = 2;
  int64_t keep_every = 0;
  bool background = true;

  void fields(config::Fields& f);
};

}  // namespace dga

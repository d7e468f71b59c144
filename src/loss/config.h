#pragma once

#include <cstdint>

#include "config/fields.h"

namespace dga {

/// Settings of the loss; TrainConfig lists them among its own fields.
struct LossConfig {
  int64_t loss_chunk_tokens = 512;
  double z_loss = 0;

  void fields(config::Fields& f);
};

}  // namespace dga

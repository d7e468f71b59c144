#pragma once

#include <cstdint>

#include "config/fields.h"

namespace dga {

/// Settings of the loss; TrainConfig lists them among its own fields.
struct LossConfig {
  int64_t loss_chunk_tokens = 0;
  double z_loss = 0;

  void fields(config::Fields& f);
};

/// Tokens of a chunk: loss_chunk_tokens, or what 0 stands for. On a GPU as many as keep the fp32 logits within 512 MiB,
/// a multiple of 256: at V = 32000 that is 4096, where adding a chunk to the fp32 gradient of the weight moves 1 GB
/// (0.35 ms on an H100) beside three products of 1.07 TFLOP (1.6 ms each at 650 TFLOP/s); 512 tokens would move as much
/// beside 0.2 ms each. On a CPU 512, whose logits stay near the caches.
int64_t chunk_tokens(const LossConfig& config, int64_t vocabulary, bool on_gpu);

}  // namespace dga

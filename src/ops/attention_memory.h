#pragma once

#include <ATen/core/Tensor.h>

namespace dga {

/// What a forward pass leaves for a second one over the same tensors, where activations are made again for the backward
/// pass. The CUDA kernels write and read it; other backends compute everything again.
struct AttentionMemory {
  bool keep_output = false;
  at::Tensor focal_bits;           // int32 [B, G, ceil(L / 32)]; kept always: selection never runs twice
  at::Tensor output, log_sum_exp;  // [B, L, H, D] and fp32 [B, H, L]; kept with keep_output: nor does attention
  at::Tensor tables;               // on the device, what the host said about the sequences; kept always: a copy to the
                                   // device would queue up behind those of what other layers left on the host
};

}  // namespace dga

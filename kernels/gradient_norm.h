#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/adamw.h"

namespace dga::kernels {

/// Bytes of the workspace of sum_of_squares.
size_t sum_of_squares_workspace_bytes();

/// *sum = sum of the squares of `count` numbers (a multiple of 8, 16-byte aligned), in an order that depends on the
/// count alone: the same bits on every run and every device.
struct SumOfSquaresParams {
  const void* gradient = nullptr;
  GradientType gradient_type = GradientType::fp32;
  int64_t count = 0;
  double* sum = nullptr;  // on the device
  void* workspace = nullptr;
};
void sum_of_squares(const SumOfSquaresParams& params, cudaStream_t stream);

/// What follows from the norm, all on the device: the factor of clipping, min(1, clip_norm / (norm + 1e-6)) (1 where
/// clip_norm is 0), and whether the update must not happen: `stop` becomes 1 where the norm or one of the losses is not
/// finite, and is never taken back.
struct GradientClipParams {
  const double* sum_of_squares = nullptr;
  const double* losses = nullptr;
  int64_t loss_count = 0;
  double clip_norm = 0;
  double* norm = nullptr;
  float* factor = nullptr;
  int32_t* stop = nullptr;
};
void gradient_clip(const GradientClipParams& params, cudaStream_t stream);

}  // namespace dga::kernels

#pragma once

#include <ATen/core/Tensor.h>

#include "dist/communicator.h"

namespace dga {

/// Combines the rows of `parts` [world size, n] into `output` [n], in order; both contiguous, in host memory and of one
/// type, but that bf16 may go into fp32. Sums of bf16 are taken in fp32 and rounded once, if at all. A NaN stays one
/// under max. Throws for types other than fp32, fp64, bf16, int32 and int64.
void reduce_parts(const at::Tensor& parts, const at::Tensor& output, Reduction reduction);

}  // namespace dga

#pragma once

#include <ATen/core/Tensor.h>

namespace dga {

/// The type in which an op sums and exponentiates values of `type`: double for double, else fp32.
inline at::ScalarType compute_type(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

}  // namespace dga

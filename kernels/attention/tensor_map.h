#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/attention/attention.h"

namespace dga::kernels {

/// Describes a bf16 tensor [batch, rows, heads, D] to the copy engine as boxes of `box_rows` rows of 64 elements with
/// the 128-byte swizzle. Coordinates: element, row, head, batch. Rows outside read as zero and are not written.
CUtensorMap make_tensor_map(const TensorRef& tensor, int64_t batch, int64_t rows, int64_t heads, int64_t head_dim,
                            int box_rows);

/// The same for a list of keys or values [B, rows, G, D]. An empty list is never visited, but its map must point
/// somewhere: to the queries.
CUtensorMap make_list_map(const TensorRef& list, int64_t rows, const AttentionInputs& inputs, int box_rows);

/// The same for the fp32 bias [batch, heads, stride], boxes of 128 entries. Coordinates: entry, head, batch, 0.
CUtensorMap make_bias_map(const float* bias, int64_t batch, int64_t heads, int64_t length, int64_t stride);

}  // namespace dga::kernels

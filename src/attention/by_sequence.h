#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "attention/sequence_layout.h"

namespace dga {

/// Attention of one sequence: q [L, H, D], k, v [L, G, D] -> [L, H, D].
using SequenceAttention =
    std::function<at::Tensor(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const SequenceSpan& span)>;

/// Applies `attention` to every sequence of the layout: q [B, L, H, D], k, v [B, L, G, D] -> [B, L, H, D].
/// Throws if the shapes, types or the layout do not fit each other.
at::Tensor by_sequence(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const SequenceLayout& layout,
                       const SequenceAttention& attention);

/// Throws unless q [B, L, H, D] and k, v [B, L, G, D] fit each other.
void check_heads(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

}  // namespace dga

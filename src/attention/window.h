#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "attention/attention.h"

namespace dga {

/// Attention to the first tokens and a window of the last ones: the kinds streaming, lm_infinite and longformer.
/// `inverse_frequencies` [D/2] are RoPE's, needed where the first tokens are seen at other distances than their own.
std::unique_ptr<Attention> make_window_attention(const AttentionConfig& config, AttentionKind kind,
                                                 const at::Tensor& inverse_frequencies);

}  // namespace dga

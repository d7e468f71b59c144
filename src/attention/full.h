#pragma once

#include <memory>

#include "attention/attention.h"

namespace dga {

/// Full causal attention, by LibTorch's scaled_dot_product_attention or by the chunked reference.
std::unique_ptr<Attention> make_full_attention(const AttentionConfig& config);

}  // namespace dga

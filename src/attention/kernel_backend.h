#pragma once

#include <ATen/core/Tensor.h>

#include "attention/config.h"
#include "attention/dga.h"
#include "attention/sequence_layout.h"
#include "ops/kernel_attention.h"

namespace dga {

/// Whether the CUDA kernels compute this call: always under backend `kernel`; under `auto` on a GPU, for full attention
/// only where they can. Throws a config error where the backend or, for the other kinds, the GPU asks for kernels that
/// cannot take the tensors: a GPU is never given to the reference silently. q [B, L, H, D], k [B, L, G, D].
bool use_kernels(const AttentionConfig& config, AttentionKind kind, const at::Tensor& q, const at::Tensor& k);

/// The settings of kind dga as the grouping kernels take them.
kernels::GroupingSettings grouping_settings(const AttentionConfig& config);

/// The kernels' call for Dynamic Group Attention of all sequences of the layout.
GroupedAttention grouped_attention(const at::Tensor& q, const at::Tensor& k, const SequenceLayout& layout,
                                   const AttentionConfig& config, const RandomKey& key);

/// Dynamic Group Attention of all sequences of the layout by the CUDA kernels; as Attention::forward.
at::Tensor kernel_dga_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                const SequenceLayout& layout, const AttentionConfig& config, const RandomKey& key,
                                AttentionMemory* memory);

}  // namespace dga

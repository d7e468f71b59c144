#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "loss/config.h"
#include "ops/cross_entropy.h"

namespace dga {

/// Sums over the tokens that have a label. The mean over a step is the caller's: it divides by the label count of the
/// whole step, so that neither micro-batches nor ranks change the result.
struct LossSum {
  at::Tensor loss_sum;  // scalar, float64, differentiable: negative log-likelihood plus z-loss
  at::Tensor nll_sum;   // scalar, float64, no gradient: negative log-likelihood alone
  at::Tensor count;     // scalar, int64: tokens with a label
};

/// Cross-entropy of the logits hidden * weight^T without ever holding them whole: chunks of loss_chunk_tokens tokens,
/// whose gradients are made while the chunk's logits exist, so backward() only scales them.
/// Per token: lse - logit[label] + z_loss * lse^2, lse the log-sum-exp of its logits.
/// hidden [N, hidden] and weight [V, hidden] in one float type; labels [N] int64, kNoLabel is left out, anything else
/// must lie in [0, V) (checked on a CPU; on a GPU the loss becomes NaN or undefined, see ops/cross_entropy.h). Logits,
/// softmax and sums are fp32 or better. The gradient of the weight is summed over the chunks in fp32 and rounded once,
/// with the factor that backward() brings; a single chunk is rounded to the weight's type before that factor, as the
/// gradient of hidden always is. Nothing waits for the GPU. backward() may run once per call.
LossSum linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels,
                             const LossConfig& config);

/// Log-probability of each label, float32 [N], NaN where it is kNoLabel; no gradient. Arguments as above.
at::Tensor token_log_probs(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels,
                           int64_t chunk_tokens);

}  // namespace dga

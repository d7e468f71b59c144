#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

/// Softmax cross-entropy of logits, with its gradient made in the same call. C tokens, V vocabulary.
namespace dga {

/// A label that takes no part in the loss.
constexpr int64_t kNoLabel = -100;

struct TokenLosses {
  at::Tensor nll;          // [C]: log_sum_exp - logits[label]; 0 without a label
  at::Tensor log_sum_exp;  // [C]: of the logits; 0 without a label
  /// [C, V]: of nll + z_loss * log_sum_exp^2 by the logits, softmax * (1 + 2 z_loss log_sum_exp) - one_hot(label); rows
  /// without a label are 0. Undefined unless asked for.
  at::Tensor gradient;
};

/// logits [C, V] fp32 or double, given up: their memory may serve for the result; labels [C] int64. `gradient` is the
/// type that the gradient is wanted in, if it is. On a GPU one kernel computes fp32 logits whose rows begin at
/// multiples of 16 bytes (see padded_logits), with a gradient in bf16; LibTorch's operations all else. A label outside
/// [0, V) gives NaN there and is undefined elsewhere.
TokenLosses cross_entropy(const at::Tensor& logits, const at::Tensor& labels, double z_loss,
                          std::optional<at::ScalarType> gradient);

/// Memory for logits [C, V] that the kernel takes as they are: rows begin at multiples of 16 bytes.
at::Tensor padded_logits(int64_t tokens, int64_t vocabulary, const at::TensorOptions& options);

}  // namespace dga

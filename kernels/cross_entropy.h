#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

/// Softmax cross-entropy of logits, and its gradient by the logits in the same call. C tokens, V vocabulary. A block
/// takes a token; the row is read twice, the second time from the L2 cache.
namespace dga::kernels {

/// Per token with a label: nll = log_sum_exp - logit[label] and, by the logits,
/// d(nll + z_loss * log_sum_exp^2) = softmax * (1 + 2 z_loss log_sum_exp) - one_hot(label).
/// A token without a label has 0 everywhere; a label outside [0, V) makes its row NaN. Moves 6 C V bytes.
struct CrossEntropyParams {
  int64_t tokens = 0, vocabulary = 0;
  const float* logits = nullptr;    // [C, V], 16-byte aligned; what stands behind a row up to its stride is not used
  int64_t row_stride = 0;           // of logits and gradient, in elements, a multiple of 8
  const int64_t* labels = nullptr;  // [C]
  int64_t no_label = 0;
  float z_loss = 0;
  float* nll = nullptr;          // [C]
  float* log_sum_exp = nullptr;  // [C]
  void* gradient = nullptr;      // [C, V] bf16, 16-byte aligned; or null
};
void cross_entropy(const CrossEntropyParams& params, cudaStream_t stream);

}  // namespace dga::kernels

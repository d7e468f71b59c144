#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace dga {

/// How the next token is drawn. The filters apply in the order temperature, top_k, top_p.
struct SamplingOptions {
  double temperature = 1.0;  // 0: always the most probable token
  double top_p = 1.0;        // smallest set of most probable tokens that holds this much; in (0, 1]
  int64_t top_k = 0;         // only the k most probable tokens; 0: all
  uint64_t seed = 0;
};

/// Throws a usage error naming the option and its bounds.
void check_sampling(const SamplingOptions& options);

/// The distribution that sampling draws from: probability of every token id [V], zero where filtered out. Among equal
/// logits the lower id is kept first. Throws a numerics error for logits that are no finite numbers.
std::vector<double> sampling_distribution(const at::Tensor& logits /*[V]*/, const SamplingOptions& options);

/// The token drawn at `step`; depends on the options' seed, the step and the logits alone.
int64_t sample_token(const at::Tensor& logits /*[V]*/, const SamplingOptions& options, int64_t step);

}  // namespace dga

#include "decode/sampling.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "util/error.h"
#include "util/random.h"

namespace dga {
namespace {

/// Ids from the most to the least probable; equal logits in order of id.
std::vector<int64_t> ids_by_logit(const std::vector<double>& logits) {
  std::vector<int64_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::ranges::stable_sort(ids, [&](int64_t a, int64_t b) { return logits[a] > logits[b]; });
  return ids;
}

std::vector<double> to_vector(const at::Tensor& logits) {
  DGA_CHECK(logits.dim() == 1 && logits.numel() > 0, "sampling needs logits of shape [V], got ", logits.sizes());
  const at::Tensor values = logits.detach().to(at::kCPU, at::kDouble).contiguous();
  std::vector<double> result(values.data_ptr<double>(), values.data_ptr<double>() + values.numel());
  for (size_t id = 0; id < result.size(); ++id) {
    if (!std::isfinite(result[id])) fail(ExitCode::numerics, "sampling: the logit of token ", id, " is ", result[id]);
  }
  return result;
}

/// How many of the probabilities (falling, summing to 1) reach top_p: the one that crosses it is still kept.
size_t nucleus_size(const std::vector<double>& falling, double top_p) {
  double sum = 0.0;
  for (size_t i = 0; i < falling.size(); ++i) {
    sum += falling[i];
    if (sum >= top_p) return i + 1;
  }
  return falling.size();
}

void normalise(std::vector<double>& values) {
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  for (double& value : values) value /= sum;
}

}  // namespace

void check_sampling(const SamplingOptions& options) {
  if (!(options.temperature >= 0.0) || !std::isfinite(options.temperature)) {
    fail(ExitCode::usage, "--temperature must be 0 or more, got ", options.temperature);
  }
  if (!(options.top_p > 0.0 && options.top_p <= 1.0)) {
    fail(ExitCode::usage, "--top-p must be above 0 and at most 1, got ", options.top_p);
  }
  if (options.top_k < 0) fail(ExitCode::usage, "--top-k must be 0 (all) or more, got ", options.top_k);
}

std::vector<double> sampling_distribution(const at::Tensor& logits, const SamplingOptions& options) {
  check_sampling(options);
  const std::vector<double> values = to_vector(logits);
  const std::vector<int64_t> ids = ids_by_logit(values);
  std::vector<double> distribution(values.size(), 0.0);
  if (options.temperature == 0.0) {
    distribution[ids.front()] = 1.0;
    return distribution;
  }
  const size_t kept = options.top_k == 0 ? ids.size() : std::min<size_t>(ids.size(), options.top_k);
  std::vector<double> falling(kept);
  for (size_t i = 0; i < kept; ++i) falling[i] = std::exp((values[ids[i]] - values[ids[0]]) / options.temperature);
  normalise(falling);
  if (options.top_p < 1.0) {
    falling.resize(nucleus_size(falling, options.top_p));
    normalise(falling);
  }
  for (size_t i = 0; i < falling.size(); ++i) distribution[ids[i]] = falling[i];
  return distribution;
}

int64_t sample_token(const at::Tensor& logits, const SamplingOptions& options, int64_t step) {
  const std::vector<double> distribution = sampling_distribution(logits, options);
  const double draw = CounterRng({options.seed, key_of("sample_token")}).uniform(static_cast<uint64_t>(step));
  double sum = 0.0;
  int64_t last = 0;
  for (size_t id = 0; id < distribution.size(); ++id) {
    if (distribution[id] == 0.0) continue;
    last = static_cast<int64_t>(id);
    sum += distribution[id];
    if (draw < sum) break;
  }
  return last;  // rounding may leave the sum just below 1: then the last possible token
}

}  // namespace dga

#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <vector>

namespace dga {

/// Negative log-likelihood in nats over some tokens.
struct NllSum {
  double nll = 0.0;
  int64_t tokens = 0;

  void add(double value) {
    nll += value;
    ++tokens;
  }
  double mean() const { return nll / static_cast<double>(tokens); }
};

/// [[nll, tokens], ..]; doubles survive exactly.
nlohmann::json sums_json(const std::vector<NllSum>& sums);
std::vector<NllSum> sums_of(const nlohmann::json& json);

/// Half the width of the 95 % confidence interval of the mean over all tokens, from how the sums of clusters
/// (documents, or stretches of a stream) scatter about it: 1.96 times the linearised standard error of a ratio (Cochran
/// 1977, chapter 2.11). Clusters without tokens do not count; nothing with fewer than two others.
std::optional<double> ratio_ci95(const std::vector<NllSum>& clusters);

/// 95 % confidence interval of a share, `matches` of `samples` (Wilson 1927).
struct Interval95 {
  double low = 0.0;
  double high = 1.0;
};
Interval95 wilson_ci95(int64_t matches, int64_t samples);

}  // namespace dga

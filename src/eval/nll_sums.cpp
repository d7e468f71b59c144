#include "eval/nll_sums.h"

#include <cmath>
#include <nlohmann/json.hpp>

namespace dga {
namespace {

constexpr double kNormal95 = 1.959963984540054;  // of the normal distribution, two-sided

}  // namespace

nlohmann::json sums_json(const std::vector<NllSum>& sums) {
  nlohmann::json json = nlohmann::json::array();
  for (const NllSum& sum : sums) json.push_back({sum.nll, sum.tokens});
  return json;
}

std::vector<NllSum> sums_of(const nlohmann::json& json) {
  std::vector<NllSum> sums;
  for (const nlohmann::json& pair : json) sums.push_back({pair.at(0).get<double>(), pair.at(1).get<int64_t>()});
  return sums;
}

std::optional<double> ratio_ci95(const std::vector<NllSum>& clusters) {
  NllSum all;
  double count = 0;
  for (const NllSum& cluster : clusters) {
    all.nll += cluster.nll;
    all.tokens += cluster.tokens;
    count += cluster.tokens > 0 ? 1 : 0;
  }
  if (count < 2) return std::nullopt;
  double squares = 0;
  for (const NllSum& cluster : clusters) {
    const double residual = cluster.nll - all.mean() * static_cast<double>(cluster.tokens);
    squares += residual * residual;
  }
  return kNormal95 * std::sqrt(squares * count / (count - 1)) / static_cast<double>(all.tokens);
}

Interval95 wilson_ci95(int64_t matches, int64_t samples) {
  if (samples == 0) return {};
  const double n = static_cast<double>(samples), share = static_cast<double>(matches) / n;
  const double z2 = kNormal95 * kNormal95;
  const double centre = (share + z2 / (2 * n)) / (1 + z2 / n);
  const double half = kNormal95 * std::sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n);
  return {matches == 0 ? 0.0 : centre - half, matches == samples ? 1.0 : centre + half};
}

}  // namespace dga

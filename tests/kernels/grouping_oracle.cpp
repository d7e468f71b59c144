#include "kernels/grouping_oracle.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace dga::kernels::testing {
namespace {

int64_t ceiling_share(double ratio, int64_t count) { return static_cast<int64_t>(std::ceil(ratio * count)); }

int64_t end_of(const std::vector<int64_t>& starts, size_t sequence, int64_t length) {
  return sequence + 1 < starts.size() ? starts[sequence + 1] : length;
}

size_t sequence_of(const std::vector<int64_t>& starts, int64_t t) {
  size_t sequence = 0;
  while (sequence + 1 < starts.size() && starts[sequence + 1] <= t) ++sequence;
  return sequence;
}

// Whether block c of a sequence of `length` tokens leaves the local range of some query, and so is divided.
bool is_divided(int64_t c, int64_t length, const OracleSettings& settings) {
  for (int64_t t = 0; t < length; ++t) {
    if (t / settings.block_size >= c + settings.local_blocks + 1) return true;
  }
  return false;
}

void choose(const std::vector<float>& importance, int64_t begin, int64_t end, double ratio, std::vector<bool>& focal) {
  std::vector<int64_t> positions(end - begin);
  std::iota(positions.begin(), positions.end(), begin);
  std::stable_sort(positions.begin(), positions.end(),
                   [&](int64_t a, int64_t b) { return importance[a] > importance[b]; });
  const int64_t count = ceiling_share(ratio, end - begin);
  for (int64_t i = 0; i < count; ++i) focal[positions[i]] = true;
}

void add_sequence_lists(OracleLists& lists, int64_t begin, int64_t end, int64_t number,
                        const OracleSettings& settings) {
  std::vector<OracleEntry> focal, groups;
  OracleEntry open{true, 0, number, {}};
  for (int64_t t = begin; t < end; ++t) {
    if (lists.focal[t]) {
      focal.push_back({false, t, number, {t}});
      continue;
    }
    lists.second.push_back(t);
    open.members.push_back(t);
    if (static_cast<int64_t>(open.members.size()) < settings.group_size) continue;
    open.visible_from = t + settings.local_window;
    for (const int64_t member : open.members) lists.closed_at[member] = open.visible_from;
    groups.push_back(open);
    open.members.clear();
  }
  focal.insert(focal.end(), groups.begin(), groups.end());
  std::stable_sort(focal.begin(), focal.end(),
                   [](const OracleEntry& a, const OracleEntry& b) { return a.visible_from < b.visible_from; });
  lists.compact.insert(lists.compact.end(), focal.begin(), focal.end());
}

void add_block_lists(OracleLists& lists, int64_t begin, int64_t end, int64_t number, const OracleSettings& settings) {
  const int64_t block = settings.block_size;
  for (int64_t c = 0; (c + 1) * block <= end - begin && is_divided(c, end - begin, settings); ++c) {
    const int64_t visible_from = begin + (c + settings.local_blocks + 1) * block;
    std::vector<OracleEntry> groups;
    for (int64_t t = begin + c * block; t < begin + (c + 1) * block; ++t) {
      lists.closed_at[t] = visible_from;
      if (lists.focal[t]) {
        lists.compact.push_back({false, visible_from, number, {t}});
      } else {
        if (groups.empty() || static_cast<int64_t>(groups.back().members.size()) == settings.group_size) {
          groups.push_back({true, visible_from, number, {}});
        }
        groups.back().members.push_back(t);
      }
    }
    lists.compact.insert(lists.compact.end(), groups.begin(), groups.end());
  }
  for (int64_t t = begin; t < end; ++t) lists.second.push_back(t);
}

double inner(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

}  // namespace

std::vector<bool> oracle_focal(const std::vector<float>& importance, const std::vector<int64_t>& starts,
                               const OracleSettings& settings) {
  const int64_t length = static_cast<int64_t>(importance.size());
  std::vector<bool> focal(length, false);
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t begin = starts[i], end = end_of(starts, i, length), block = settings.block_size;
    if (!settings.causal) {
      choose(importance, begin, end, settings.focal_ratio, focal);
      continue;
    }
    for (int64_t c = 0; (c + 1) * block <= end - begin && is_divided(c, end - begin, settings); ++c) {
      choose(importance, begin + c * block, begin + (c + 1) * block, settings.focal_ratio, focal);
    }
  }
  return focal;
}

OracleLists oracle_lists(const std::vector<bool>& focal, const std::vector<int64_t>& starts,
                         const OracleSettings& settings) {
  OracleLists lists;
  lists.starts = starts;
  lists.length = static_cast<int64_t>(focal.size());
  lists.focal = focal;
  lists.closed_at.assign(focal.size(), lists.length);
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t end = end_of(starts, i, lists.length);
    if (settings.causal) {
      add_block_lists(lists, starts[i], end, static_cast<int64_t>(i), settings);
    } else {
      add_sequence_lists(lists, starts[i], end, static_cast<int64_t>(i), settings);
    }
  }
  return lists;
}

bool oracle_sees_entry(const OracleLists& lists, int64_t t, const OracleEntry& entry) {
  return entry.sequence == static_cast<int64_t>(sequence_of(lists.starts, t)) && entry.visible_from <= t;
}

bool oracle_sees_token(const OracleLists& lists, const OracleSettings& settings, int64_t t, int64_t j) {
  if (j > t || sequence_of(lists.starts, j) != sequence_of(lists.starts, t)) return false;
  if (settings.causal) return lists.closed_at[j] > t;
  if (lists.focal[j]) return false;
  return settings.complementary ? lists.closed_at[j] > t : j == t;
}

OraclePool oracle_pool(const Rows& keys, const Rows& values, const std::vector<double>& query, double scale) {
  OraclePool pool;
  double sum = 0;
  for (const auto& key : keys) pool.weights.push_back(query.empty() ? 0 : scale * inner(query, key));
  const double largest = *std::max_element(pool.weights.begin(), pool.weights.end());
  for (double& weight : pool.weights) sum += weight = std::exp(weight - largest);
  pool.key.assign(keys[0].size(), 0);
  pool.value.assign(keys[0].size(), 0);
  for (size_t i = 0; i < keys.size(); ++i) {
    const double p = pool.weights[i] /= sum;
    if (p > 0) pool.entropy -= p * std::log(p);
    for (size_t d = 0; d < pool.key.size(); ++d) {
      pool.key[d] += p * keys[i][d];
      pool.value[d] += p * values[i][d];
    }
  }
  return pool;
}

OraclePoolGradient oracle_pool_gradient(const Rows& keys, const Rows& values, const std::vector<double>& query,
                                        double scale, const std::vector<double>& grad_key,
                                        const std::vector<double>& grad_value, double grad_entropy) {
  const OraclePool pool = oracle_pool(keys, values, query, scale);
  const size_t width = grad_key.size(), count = keys.size();
  std::vector<double> grad_weights;
  double mean = 0;
  for (size_t i = 0; i < count; ++i) {
    const double p = pool.weights[i];
    grad_weights.push_back(inner(grad_key, keys[i]) + inner(grad_value, values[i]) -
                           (p > 0 ? grad_entropy * (std::log(p) + 1) : 0));
    mean += p * grad_weights[i];
  }
  OraclePoolGradient gradient;
  gradient.query.assign(width, 0);
  for (size_t i = 0; i < count; ++i) {
    const double p = pool.weights[i], grad_logit = query.empty() ? 0 : p * (grad_weights[i] - mean);
    gradient.keys.emplace_back(width);
    gradient.values.emplace_back(width);
    for (size_t d = 0; d < width; ++d) {
      gradient.keys[i][d] = p * grad_key[d] + (query.empty() ? 0 : grad_logit * scale * query[d]);
      gradient.values[i][d] = p * grad_value[d];
      gradient.query[d] += grad_logit * scale * keys[i][d];
    }
  }
  return gradient;
}

}  // namespace dga::kernels::testing

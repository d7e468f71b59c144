#include "attention/membership_oracle.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "util/random.h"

namespace dga::testing {
namespace {

struct Group {
  std::vector<int64_t> members;
  int64_t avail = 0;  // the first query that sees it
};

// One sequence and one KV head: q [L, r, D], k, v [L, D].
struct Head {
  at::Tensor q, k, v;
  int64_t length = 0;
  double scale = 0;
  std::vector<std::vector<std::vector<double>>> qs;  // [r][L][D], the same numbers
  std::vector<std::vector<double>> ks;               // [L][D]
};

struct Key {
  uint64_t seed, layer, kv_head, number;
};

Head make_head(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  Head head{q, k, v, k.size(0), 1 / std::sqrt(static_cast<double>(k.size(1))), {}, {}};
  const auto numbers = [](const at::Tensor& row) {
    const at::Tensor r = row.detach().contiguous();
    return std::vector<double>(r.const_data_ptr<double>(), r.const_data_ptr<double>() + r.numel());
  };
  head.qs.resize(static_cast<size_t>(q.size(1)));
  for (int64_t t = 0; t < head.length; ++t) {
    head.ks.push_back(numbers(k[t]));
    for (int64_t h = 0; h < q.size(1); ++h) head.qs[static_cast<size_t>(h)].push_back(numbers(q[t][h]));
  }
  return head;
}

// Adds to importance what query s gives to each token of [first, last].
void score(const Head& head, int64_t s, int64_t first, int64_t last, std::vector<double>& importance) {
  for (const auto& q : head.qs) {
    std::vector<double> weight;
    double total = 0;
    for (int64_t j = first; j <= last; ++j) {
      double product = 0;
      for (size_t d = 0; d < head.ks[0].size(); ++d) {
        product += q[static_cast<size_t>(s)][d] * head.ks[static_cast<size_t>(j)][d];
      }
      weight.push_back(std::exp(head.scale * product));
      total += weight.back();
    }
    for (int64_t j = first; j <= last; ++j) {
      importance[static_cast<size_t>(j)] += weight[static_cast<size_t>(j - first)] / total;
    }
  }
}

// Marks the `count` most important of the tokens [first, last].
void mark_focal(const std::vector<double>& importance, int64_t first, int64_t last, int64_t count,
                std::vector<bool>& focal) {
  for (int64_t round = 0; round < count; ++round) {
    int64_t best = -1;
    for (int64_t j = first; j <= last; ++j) {
      if (focal[static_cast<size_t>(j)]) continue;
      if (best < 0 || importance[static_cast<size_t>(j)] > importance[static_cast<size_t>(best)]) best = j;
    }
    focal[static_cast<size_t>(best)] = true;
  }
}

std::set<int64_t> scoring_queries(const AttentionConfig& config, int64_t length, const Key& key) {
  std::set<int64_t> queries;
  const int64_t count = config.sampled_queries;
  if (config.query_sampling == QuerySampling::random) {
    for (const int64_t s : CounterRng({key.seed, key.layer, key.number}).sample(length, std::min(count, length))) {
      queries.insert(s);
    }
  } else if (config.query_sampling == QuerySampling::recent) {
    for (int64_t s = std::max<int64_t>(0, length - count); s < length; ++s) queries.insert(s);
  } else if (count == 1) {
    queries.insert(length - 1);
  } else {
    // The formula as written, with duplicates where there are more samples than tokens.
    for (int64_t i = 0; i < count; ++i) queries.insert((2 * i * (length - 1) + count - 1) / (2 * (count - 1)));
  }
  return queries;
}

std::vector<bool> focal_tokens(const Head& head, const AttentionConfig& config, const Key& key) {
  const int64_t length = head.length;
  std::vector<bool> focal(static_cast<size_t>(length), false);
  std::vector<double> importance(static_cast<size_t>(length), 0.0);
  const auto count = [&config](int64_t tokens) {
    return static_cast<int64_t>(std::ceil(config.focal_ratio * static_cast<double>(tokens)));
  };
  switch (config.selection) {
    case Selection::none:
      break;
    case Selection::random:
      for (const int64_t j : CounterRng({key.seed, key.layer, key.kv_head, key.number}).sample(length, count(length))) {
        focal[static_cast<size_t>(j)] = true;
      }
      break;
    case Selection::global:
      for (const int64_t s : scoring_queries(config, length, key)) score(head, s, 0, s, importance);
      mark_focal(importance, 0, length - 1, count(length), focal);
      break;
    case Selection::causal: {
      const int64_t block = config.block_size;
      for (int64_t first = 0; first + block <= length; first += block) {
        const int64_t last = first + block - 1;
        for (int64_t s = first; s < std::min(length, first + (config.local_blocks + 1) * block); ++s) {
          score(head, s, first, std::min(s, last), importance);
        }
        mark_focal(importance, first, last, count(block), focal);
      }
      break;
    }
  }
  return focal;
}

std::vector<Group> groups_of(const Head& head, const AttentionConfig& config, const std::vector<bool>& focal) {
  std::vector<Group> groups;
  const bool causal = config.selection == Selection::causal;
  const int64_t members = config.group_size, block = config.block_size;
  Group open;
  for (int64_t j = 0; j < head.length; ++j) {
    if (!focal[static_cast<size_t>(j)]) open.members.push_back(j);
    const bool block_ends = causal && (j + 1) % block == 0;
    if (static_cast<int64_t>(open.members.size()) == members || (block_ends && !open.members.empty())) {
      open.avail = causal ? (j / block + config.local_blocks + 1) * block : j + config.local_window;
      groups.push_back(open);
      open.members.clear();
    }
  }
  return groups;  // what is left open forms no group
}

bool sees_group(const Group& group, int64_t t) { return group.avail <= t; }

bool sees_token(const AttentionConfig& config, const std::vector<bool>& focal, const std::vector<Group>& groups,
                int64_t t, int64_t j) {
  if (j > t) return false;
  const bool is_focal = focal[static_cast<size_t>(j)];
  if (config.selection == Selection::causal) {
    const int64_t distance = t / config.block_size - j / config.block_size;
    return distance <= config.local_blocks || is_focal;
  }
  if (is_focal) return true;
  if (!config.complementary) return j == t;
  for (const Group& group : groups) {
    const bool inside = std::find(group.members.begin(), group.members.end(), j) != group.members.end();
    if (inside && sees_group(group, t)) return false;
  }
  return true;
}

struct Pooled {
  at::Tensor key, value, bias;
};

Pooled pool(const Head& head, const AttentionConfig& config, const Group& group) {
  const at::Tensor members = at::tensor(group.members, at::kLong);
  const at::Tensor k = head.k.index_select(0, members), v = head.v.index_select(0, members);
  const double share = 1.0 / static_cast<double>(group.members.size());
  at::Tensor weights = at::full({static_cast<int64_t>(group.members.size())}, share, at::kDouble);
  if (config.group_weights == GroupWeights::last_query) {
    weights = at::softmax(at::mv(k, head.q[group.members.back()].mean(0)) * head.scale, 0);
  }
  const at::Tensor entropy = (weights * weights.log()).sum().neg();
  const bool biased = config.group_bias == GroupBias::entropy;
  return {at::matmul(weights, k), at::matmul(weights, v), biased ? entropy : at::zeros({}, at::kDouble)};
}

bool in_window(const AttentionConfig& config, int64_t t, int64_t j) { return j <= t && t - j < config.window; }

bool window_sees(const AttentionConfig& config, int64_t t, int64_t j) {
  return in_window(config, t, j) || (j <= t && j < config.sink_tokens);
}

// The distance at which query t sees token j under the kinds with a window.
int64_t seen_distance(const AttentionConfig& config, int64_t t, int64_t j) {
  if (in_window(config, t, j)) return t - j;
  if (config.kind == AttentionKind::lm_infinite) return config.window;
  if (config.kind != AttentionKind::streaming || config.sink_positions == SinkPositions::absolute) return t - j;
  int64_t between = 0;  // tokens in the cache after j, up to t
  for (int64_t i = j + 1; i <= t; ++i) between += window_sees(config, t, i) ? 1 : 0;
  return between;
}

// Replaces the logits [r, L, L] of pairs that are seen at another distance: q turned by the difference, as complex
// numbers.
at::Tensor at_seen_distance(const Head& head, const AttentionConfig& config, const at::Tensor& logits,
                            const at::Tensor& inverse_frequencies) {
  const int64_t half = head.k.size(1) / 2;
  const auto complex = [half](const at::Tensor& x) {
    return at::complex(x.narrow(-1, 0, half).contiguous(), x.narrow(-1, half, half).contiguous());
  };
  std::vector<at::Tensor> columns = logits.unbind(2);
  for (int64_t j = 0; j < std::min(config.sink_tokens, head.length); ++j) {
    std::vector<double> turn;
    for (int64_t t = 0; t < head.length; ++t) {
      turn.push_back(window_sees(config, t, j) ? static_cast<double>(seen_distance(config, t, j) - (t - j)) : 0.0);
    }
    const at::Tensor angle =
        at::tensor(turn, at::kDouble).unsqueeze(1) * inverse_frequencies.to(at::kDouble).unsqueeze(0);  // [L, D/2]
    const at::Tensor turned = complex(head.q) * at::polar(at::ones_like(angle), angle).unsqueeze(1);    // [L, r, D/2]
    columns[static_cast<size_t>(j)] = at::real(turned * complex(head.k[j]).conj()).sum(2).t() * head.scale;
  }
  return at::stack(columns, 2);
}

// [L, r, D], and the pairs seen.
OracleResult attend_head(const Head& head, const AttentionConfig& config, const Key& key,
                         const at::Tensor& inverse_frequencies) {
  const bool windowed = config.kind != AttentionKind::full && config.kind != AttentionKind::dga;
  const std::vector<bool> focal = focal_tokens(head, config, key);
  const std::vector<Group> groups = windowed ? std::vector<Group>{} : groups_of(head, config, focal);
  const int64_t entries = static_cast<int64_t>(groups.size());
  std::vector<at::Tensor> keys, values, biases;
  for (const Group& group : groups) {
    const Pooled pooled = pool(head, config, group);
    keys.push_back(pooled.key);
    values.push_back(pooled.value);
    biases.push_back(pooled.bias);
  }
  at::Tensor all_keys = head.k, all_values = head.v, bias = at::zeros({head.length}, at::kDouble);
  if (entries > 0) {
    all_keys = at::cat({all_keys, at::stack(keys)});
    all_values = at::cat({all_values, at::stack(values)});
    bias = at::cat({bias, at::stack(biases)});
  }
  OracleResult result;
  at::Tensor visible = at::zeros({head.length, head.length + entries}, at::kBool);
  auto seen = visible.accessor<bool, 2>();
  for (int64_t t = 0; t < head.length; ++t) {
    for (int64_t j = 0; j < head.length; ++j) {
      seen[t][j] = config.kind == AttentionKind::full ? j <= t
                   : windowed                         ? window_sees(config, t, j)
                                                      : sees_token(config, focal, groups, t, j);
      result.pairs += seen[t][j] ? 1 : 0;
    }
    for (int64_t i = 0; i < entries; ++i) {
      seen[t][head.length + i] = config.kind == AttentionKind::dga && sees_group(groups[static_cast<size_t>(i)], t);
      result.pairs += seen[t][head.length + i] ? 1 : 0;
    }
  }
  at::Tensor logits = at::matmul(head.q.transpose(0, 1), all_keys.t()) * head.scale + bias;  // [r, L, L + M]
  if (windowed && inverse_frequencies.defined()) {
    logits = at_seen_distance(head, config, logits, inverse_frequencies);
  }
  const at::Tensor masked = at::where(visible, logits, -std::numeric_limits<double>::infinity());
  result.out = at::matmul(at::softmax(masked, 2), all_values).transpose(0, 1);
  return result;
}

}  // namespace

OracleResult oracle_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const SequenceLayout& layout, const AttentionConfig& config, int64_t layer, uint64_t seed,
                              const at::Tensor& inverse_frequencies) {
  const int64_t kv_heads = k.size(2), repeat = q.size(2) / kv_heads;
  OracleResult result;
  std::vector<at::Tensor> rows;
  for (int64_t b = 0; b < q.size(0); ++b) {
    const std::vector<int64_t>& starts = layout.starts[static_cast<size_t>(b)];
    std::vector<at::Tensor> parts;
    for (size_t i = 0; i < starts.size(); ++i) {
      const int64_t begin = starts[i], end = i + 1 < starts.size() ? starts[i + 1] : q.size(1);
      std::vector<at::Tensor> heads;
      for (int64_t g = 0; g < kv_heads; ++g) {
        const auto own = [&](const at::Tensor& x) { return x[b].slice(0, begin, end); };
        const Head head =
            make_head(own(q).slice(1, g * repeat, (g + 1) * repeat), own(k).select(1, g), own(v).select(1, g));
        const uint64_t number = static_cast<uint64_t>(layout.first_token[static_cast<size_t>(b)] + begin);
        const OracleResult one = attend_head(
            head, config, {seed, static_cast<uint64_t>(layer), static_cast<uint64_t>(g), number}, inverse_frequencies);
        heads.push_back(one.out);
        result.pairs += one.pairs;
      }
      parts.push_back(at::cat(heads, 1));
    }
    rows.push_back(at::cat(parts, 0));
  }
  result.out = at::stack(rows);
  return result;
}

}  // namespace dga::testing

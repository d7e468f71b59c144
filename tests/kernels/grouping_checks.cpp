#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "kernels/grouping_case.h"

namespace dga::kernels::testing {
namespace {

// fp32 sums in another order, as a share of the largest value of the tensor.
constexpr double kSumError = 1e-5;

// The worst error of one tensor as a share of what one rounding to bf16, `roundings` times, and fp32 sums may make.
class Judge {
 public:
  explicit Judge(double roundings) : roundings_(roundings) {}

  void compare(uint16_t bits, double expected, double magnitude, int64_t b, int64_t row, int64_t head) {
    const double actual = from_bf16(bits);
    const double allowed = roundings_ * bf16_half_ulp(expected) + kSumError * magnitude;
    const double share = std::isfinite(actual) ? std::abs(actual - expected) / allowed : INFINITY;
    if (!(share > worst_)) return;
    worst_ = share;
    std::ostringstream out;
    out << "b " << b << " row " << row << " head " << head << ": " << actual << ", expected " << expected;
    where_ = out.str();
  }
  double report(const char* what) const {
    EXPECT_LE(worst_, 1) << what << " at " << where_;
    return worst_;
  }

 private:
  double roundings_, worst_ = 0;
  std::string where_;
};

void compare_row(Judge& judge, const std::vector<uint16_t>& host, const TestTensor& tensor, int64_t b, int64_t row,
                 int64_t head, const std::vector<double>& expected) {
  double magnitude = 1e-3;
  for (const double value : expected) magnitude = std::max(magnitude, std::abs(value));
  for (int64_t d = 0; d < tensor.head_dim; ++d) {
    judge.compare(host[tensor.index(b, row, head) + d], expected[d], magnitude, b, row, head);
  }
}

bool same_row(const std::vector<uint16_t>& a, const TestTensor& a_tensor, int64_t a_row, const std::vector<uint16_t>& b,
              const TestTensor& b_tensor, int64_t b_row, int64_t batch, int64_t head) {
  const auto first = a.begin() + a_tensor.index(batch, a_row, head);
  return std::equal(first, first + a_tensor.head_dim, b.begin() + b_tensor.index(batch, b_row, head));
}

bool zero_row(const std::vector<uint16_t>& host, const TestTensor& tensor, int64_t b, int64_t row, int64_t head) {
  const auto first = host.begin() + tensor.index(b, row, head);
  return std::all_of(first, first + tensor.head_dim, [](uint16_t bits) { return bits == 0; });
}

void add(std::vector<double>& sum, const std::vector<double>& other) {
  for (size_t d = 0; d < sum.size(); ++d) sum[d] += other[d];
}

// Inputs of a group's pooling.
struct GroupInputs {
  Rows keys, values;
  std::vector<double> query;
};

GroupInputs group_inputs(const GroupingRun& run, const OracleEntry& entry, int64_t b, int64_t g) {
  GroupInputs inputs;
  for (const int64_t t : entry.members) {
    inputs.keys.push_back(row_of(run.tokens_host, run.tokens.key, b, t, g));
    inputs.values.push_back(row_of(run.tokens_host, run.tokens.value, b, t, g));
  }
  if (run.c.pooling == GroupPooling::mean) return inputs;
  const int64_t r = run.c.group_heads;
  inputs.query.assign(run.c.head_dim, 0);
  for (int64_t h = 0; h < r; ++h) {
    add(inputs.query, row_of(run.tokens_host, run.tokens.query, b, entry.members.back(), g * r + h));
  }
  for (double& value : inputs.query) value /= static_cast<double>(r);
  return inputs;
}

// Queries to look at: all of a short row, else the first, the last, those around sequence starts, and random ones.
std::vector<int64_t> queries_of(const GroupingRun& run, int64_t b) {
  std::set<int64_t> queries;
  std::mt19937 random(run.c.seed + 7);
  const int64_t length = run.c.length;
  for (int64_t i = 0; i < std::min<int64_t>(length, 48); ++i) {
    queries.insert(length <= 48 ? i : static_cast<int64_t>(random() % length));
  }
  for (size_t i = 0; i < std::min<size_t>(run.c.starts[b].size(), 8); ++i) {
    const int64_t start = run.c.starts[b][i];
    for (int64_t t = std::max<int64_t>(start - 1, 0); t < std::min(start + 2, length); ++t) queries.insert(t);
  }
  queries.insert(length - 1);
  return {queries.begin(), queries.end()};
}

struct HostBounds {
  std::vector<int32_t> first_begin, first_end, second_begin, second_end;
};

void check_query(const GroupingRun& run, const OracleLists& lists, const HostBounds& bounds, int64_t offset,
                 int64_t t) {
  const OracleSettings settings = oracle_settings(run.c.settings);
  int64_t wrong_entries = 0, wrong_tokens = 0;
  for (int64_t e = 0; e < static_cast<int64_t>(lists.compact.size()); ++e) {
    const bool inside = bounds.first_begin[offset + t] <= e && e < bounds.first_end[offset + t];
    wrong_entries += inside != oracle_sees_entry(lists, t, lists.compact[e]);
  }
  for (int64_t i = 0; i < static_cast<int64_t>(lists.second.size()); ++i) {
    const bool inside = bounds.second_begin[offset + t] <= i && i < bounds.second_end[offset + t];
    wrong_tokens += inside != oracle_sees_token(lists, settings, t, lists.second[i]);
  }
  EXPECT_EQ(wrong_entries, 0) << "compact entries of query " << t << ", range " << bounds.first_begin[offset + t]
                              << ".." << bounds.first_end[offset + t] << " of " << lists.compact.size();
  EXPECT_EQ(wrong_tokens, 0) << "tokens of query " << t << ", range " << bounds.second_begin[offset + t] << ".."
                             << bounds.second_end[offset + t] << " of " << lists.second.size();
  EXPECT_LE(bounds.first_end[offset + t], static_cast<int64_t>(lists.compact.size()));
  EXPECT_LE(bounds.second_end[offset + t], static_cast<int64_t>(lists.second.size()));
}

void check_monotone(const std::vector<int32_t>& bound, const char* name, int64_t offset, int64_t length) {
  const auto begin = bound.begin() + offset;
  EXPECT_TRUE(std::is_sorted(begin, begin + length)) << name << " decreases";
  EXPECT_GE(*begin, 0) << name;
}

}  // namespace

void Errors::merge(const Errors& other) {
  compact = std::max(compact, other.compact);
  bias = std::max(bias, other.bias);
  grad_key = std::max(grad_key, other.grad_key);
  grad_value = std::max(grad_value, other.grad_value);
  grad_query = std::max(grad_query, other.grad_query);
}

std::string Errors::text() const {
  std::ostringstream out;
  out << "worst error / allowed: compact " << compact << ", bias " << bias << ", grad_key " << grad_key
      << ", grad_value " << grad_value << ", grad_query " << grad_query;
  return out.str();
}

void check_select(const GroupingRun& run, const std::vector<std::vector<OracleLists>>& oracle) {
  const std::vector<uint32_t> bits = run.bits.download();
  for (int64_t b = 0; b < run.batch(); ++b) {
    for (int64_t g = 0; g < run.c.kv_heads; ++g) {
      const uint32_t* words = bits.data() + (b * run.c.kv_heads + g) * run.words();
      int64_t wrong = 0, first = -1;
      for (int64_t t = 0; t < run.words() * 32; ++t) {
        const bool expected = t < run.c.length && oracle[b][g].focal[t];
        if ((words[t / 32] >> (t % 32) & 1) == expected) continue;
        if (wrong++ == 0) first = t;
      }
      EXPECT_EQ(wrong, 0) << "focal bits, row " << b << " head " << g << ", the first at " << first;
    }
  }
}

void check_order(const GroupingRun& run, const std::vector<std::vector<OracleLists>>& oracle) {
  const HostBounds bounds = {run.first_begin.download(), run.first_end.download(), run.second_begin.download(),
                             run.second_end.download()};
  const std::vector<int32_t> token_order = run.token_order.download();
  for (int64_t b = 0; b < run.batch(); ++b) {
    for (int64_t g = 0; g < run.c.kv_heads; ++g) {
      const int64_t offset = (b * run.c.kv_heads + g) * run.c.length;
      for (int32_t s = run.plan.row_begins[b]; s < run.plan.row_begins[b + 1]; ++s) {
        const Segment& segment = run.plan.segments[s];
        std::vector<int32_t> expected;
        for (const bool focal : {false, true}) {
          for (int32_t t = segment.token_begin; t < segment.token_begin + segment.length; ++t) {
            if (oracle[b][g].focal[t] == focal) expected.push_back(t);
          }
        }
        EXPECT_TRUE(std::equal(expected.begin(), expected.end(), token_order.begin() + offset + segment.token_begin))
            << "token order, row " << b << " head " << g << " segment " << s;
      }
      check_monotone(bounds.first_begin, "first_begin", offset, run.c.length);
      check_monotone(bounds.first_end, "first_end", offset, run.c.length);
      check_monotone(bounds.second_begin, "second_begin", offset, run.c.length);
      check_monotone(bounds.second_end, "second_end", offset, run.c.length);
      for (const int64_t t : queries_of(run, b)) check_query(run, oracle[b][g], bounds, offset, t);
    }
  }
}

Errors check_forward(const GroupingRun& run, const std::vector<std::vector<OracleLists>>& oracle) {
  const double scale = 1 / std::sqrt(static_cast<double>(run.c.head_dim));
  const std::vector<uint16_t> keys = run.compact[0].buffer->download(), values = run.compact[1].buffer->download();
  const std::vector<uint16_t> second[2] = {run.second[0].buffer->download(), run.second[1].buffer->download()};
  const std::vector<float> bias = run.bias.download();
  Judge judge(1);
  Errors errors;
  int64_t wrong_copies = 0, wrong_padding = 0;
  for (int64_t b = 0; b < run.batch(); ++b) {
    for (int64_t g = 0; g < run.c.kv_heads; ++g) {
      const OracleLists& lists = oracle[b][g];
      const float* head_bias = bias.data() + (b * run.c.kv_heads + g) * run.bias_stride;
      const int64_t entries = static_cast<int64_t>(lists.compact.size());
      for (int64_t e = 0; e < entries; ++e) {
        const OracleEntry& entry = lists.compact[e];
        double entropy = 0;
        if (entry.group) {
          const GroupInputs inputs = group_inputs(run, entry, b, g);
          const OraclePool pool = oracle_pool(inputs.keys, inputs.values, inputs.query, scale);
          compare_row(judge, keys, run.compact[0], b, e, g, pool.key);
          compare_row(judge, values, run.compact[1], b, e, g, pool.value);
          entropy = pool.entropy;
        } else {
          wrong_copies +=
              !same_row(keys, run.compact[0], e, run.tokens_host, run.tokens.key, entry.members[0], b, g) ||
              !same_row(values, run.compact[1], e, run.tokens_host, run.tokens.value, entry.members[0], b, g);
        }
        if (!run.c.entropy) continue;
        const double error = std::isfinite(head_bias[e]) ? std::abs(head_bias[e] - entropy) : INFINITY;
        errors.bias = std::max(errors.bias, error / 1e-5);
      }
      for (int64_t e = entries; e < run.compact_length; ++e) {
        wrong_padding += !zero_row(keys, run.compact[0], b, e, g) || !zero_row(values, run.compact[1], b, e, g);
      }
      for (int64_t e = entries; run.c.entropy && e < run.bias_stride; ++e) wrong_padding += !(head_bias[e] == 0);
      if (run.c.settings.rule == GroupingRule::block) continue;
      const int64_t tokens = static_cast<int64_t>(lists.second.size());
      for (int64_t i = 0; i < run.second_length; ++i) {
        if (i >= tokens) {
          wrong_padding += !zero_row(second[0], run.second[0], b, i, g) || !zero_row(second[1], run.second[1], b, i, g);
          continue;
        }
        wrong_copies +=
            !same_row(second[0], run.second[0], i, run.tokens_host, run.tokens.key, lists.second[i], b, g) ||
            !same_row(second[1], run.second[1], i, run.tokens_host, run.tokens.value, lists.second[i], b, g);
      }
    }
  }
  EXPECT_EQ(wrong_copies, 0) << "tokens copied to the lists";
  EXPECT_EQ(wrong_padding, 0) << "padding that is not zero";
  EXPECT_LE(errors.bias, 1) << "entropy bias, in units of 1e-5";
  errors.compact = judge.report("compact list");
  return errors;
}

Errors check_backward(const GroupingRun& run, const std::vector<std::vector<OracleLists>>& oracle) {
  const double scale = 1 / std::sqrt(static_cast<double>(run.c.head_dim));
  const bool block = run.c.settings.rule == GroupingRule::block;
  const int64_t r = run.c.group_heads, d = run.c.head_dim;
  const std::vector<uint16_t> after = run.grads.query.buffer->download();
  Judge key_judge(2), value_judge(2), query_judge(2);
  for (int64_t b = 0; b < run.batch(); ++b) {
    for (int64_t g = 0; g < run.c.kv_heads; ++g) {
      const OracleLists& lists = oracle[b][g];
      Rows grad_key(run.c.length, std::vector<double>(d)), grad_value = grad_key, grad_query(run.c.length);
      for (int64_t i = 0; i < static_cast<int64_t>(lists.second.size()); ++i) {
        const int64_t t = lists.second[i];
        add(grad_key[t], block ? row_of(run.grads_before, run.grads.key, b, t, g)
                               : row_of(run.grad_second_host[0], run.grad_second[0], b, i, g));
        add(grad_value[t], block ? row_of(run.grads_before, run.grads.value, b, t, g)
                                 : row_of(run.grad_second_host[1], run.grad_second[1], b, i, g));
      }
      for (int64_t e = 0; e < static_cast<int64_t>(lists.compact.size()); ++e) {
        const OracleEntry& entry = lists.compact[e];
        const std::vector<double> entry_key = row_of(run.grad_compact_host[0], run.grad_compact[0], b, e, g);
        const std::vector<double> entry_value = row_of(run.grad_compact_host[1], run.grad_compact[1], b, e, g);
        if (!entry.group) {
          add(grad_key[entry.members[0]], entry_key);
          add(grad_value[entry.members[0]], entry_value);
          continue;
        }
        const GroupInputs inputs = group_inputs(run, entry, b, g);
        const double grad_entropy =
            run.c.entropy ? run.grad_bias_host[(b * run.c.kv_heads + g) * run.bias_stride + e] : 0;
        const OraclePoolGradient gradient =
            oracle_pool_gradient(inputs.keys, inputs.values, inputs.query, scale, entry_key, entry_value, grad_entropy);
        for (size_t i = 0; i < entry.members.size(); ++i) {
          add(grad_key[entry.members[i]], gradient.keys[i]);
          add(grad_value[entry.members[i]], gradient.values[i]);
        }
        grad_query[entry.members.back()] = gradient.query;
      }
      for (int64_t t = 0; t < run.c.length; ++t) {
        compare_row(key_judge, after, run.grads.key, b, t, g, grad_key[t]);
        compare_row(value_judge, after, run.grads.value, b, t, g, grad_value[t]);
        for (int64_t h = 0; h < r; ++h) {
          std::vector<double> expected = row_of(run.grads_before, run.grads.query, b, t, g * r + h);
          if (run.c.pooling == GroupPooling::last_query && !grad_query[t].empty()) {
            for (int64_t i = 0; i < d; ++i) expected[i] += grad_query[t][i] / static_cast<double>(r);
          }
          compare_row(query_judge, after, run.grads.query, b, t, g * r + h, expected);
        }
      }
      // The gap behind each row's tensors is still as it was.
      const int64_t row_end = run.grads.value.index(b, 0, run.c.kv_heads - 1) + d;
      for (int64_t t = 0; t < run.c.length; ++t) {
        EXPECT_EQ(after[row_end + t * run.grads.value.ref.row_stride], 0xffff) << "written between rows at " << t;
      }
    }
  }
  Errors errors;
  errors.grad_key = key_judge.report("grad_key");
  errors.grad_value = value_judge.report("grad_value");
  errors.grad_query = query_judge.report("grad_query");
  return errors;
}

void check_guards(const GroupingRun& run) {
  EXPECT_TRUE(run.table.guards_intact() && run.importance_device.guards_intact() && run.bits.guards_intact() &&
              run.word_ranks.guards_intact() && run.token_order.guards_intact())
      << "guard zones of the focal set";
  EXPECT_TRUE(run.first_begin.guards_intact() && run.first_end.guards_intact() && run.second_begin.guards_intact() &&
              run.second_end.guards_intact())
      << "guard zones of the bounds";
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(run.compact[i].buffer->guards_intact() && run.second[i].buffer->guards_intact())
        << "guard zones of the lists";
  }
  EXPECT_TRUE(run.bias.guards_intact() && run.grads.query.buffer->guards_intact()) << "guard zones of the gradients";
}

}  // namespace dga::kernels::testing

#pragma once

#include <cstdint>
#include <vector>

// The grouping of one row and KV head by the definitions of docs/method.md: sets, sorting and loops in double.
namespace dga::kernels::testing {

struct OracleSettings {
  bool causal = false;
  double focal_ratio = 0;
  int64_t group_size = 1;
  int64_t local_window = 0;
  bool complementary = true;
  int64_t block_size = 1;
  int64_t local_blocks = 0;
};

/// A focal token (one member) or a group, at positions in the row.
struct OracleEntry {
  bool group = false;
  int64_t visible_from = 0;  // first position in the row whose query sees it
  int64_t sequence = 0;      // number of its sequence in the row
  std::vector<int64_t> members;
};

struct OracleLists {
  std::vector<int64_t> starts;  // of the row's sequences
  int64_t length = 0;
  std::vector<bool> focal;           // [length]
  std::vector<OracleEntry> compact;  // in order
  std::vector<int64_t> second;       // positions in the row, in order
  std::vector<int64_t> closed_at;    // [length]: position from which on the token's group replaces it; length if never
};

/// The focal tokens of a row by importance [length].
std::vector<bool> oracle_focal(const std::vector<float>& importance, const std::vector<int64_t>& starts,
                               const OracleSettings& settings);

OracleLists oracle_lists(const std::vector<bool>& focal, const std::vector<int64_t>& starts,
                         const OracleSettings& settings);

/// Whether the query at t sees compact entry e, or the token at j by itself.
bool oracle_sees_entry(const OracleLists& lists, int64_t t, const OracleEntry& entry);
bool oracle_sees_token(const OracleLists& lists, const OracleSettings& settings, int64_t t, int64_t j);

/// Rows of D doubles.
using Rows = std::vector<std::vector<double>>;

struct OraclePool {
  std::vector<double> key, value;  // [D]
  std::vector<double> weights;     // [members]
  double entropy = 0;
};

/// Pools members by softmax of scale * query.k_i, or equally if `query` is empty.
OraclePool oracle_pool(const Rows& keys, const Rows& values, const std::vector<double>& query, double scale);

struct OraclePoolGradient {
  Rows keys, values;          // [members][D]
  std::vector<double> query;  // [D]
};

/// Gradients of sum(grad_key * key) + sum(grad_value * value) + grad_entropy * entropy.
OraclePoolGradient oracle_pool_gradient(const Rows& keys, const Rows& values, const std::vector<double>& query,
                                        double scale, const std::vector<double>& grad_key,
                                        const std::vector<double>& grad_value, double grad_entropy);

}  // namespace dga::kernels::testing

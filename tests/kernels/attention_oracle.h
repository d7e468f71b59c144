#pragma once

#include <cstdint>
#include <vector>

// Attention over two ranges a query in double, straight from the definition: for every query the list of keys it sees.
// Tensors are flat: queries [L, D] of one head, keys [K, D] of one KV head with the compact list first.
namespace dga::kernels::testing {

/// Which keys of [compact; second] each query sees, and what is added to a key's logit.
struct OracleKeys {
  std::vector<std::vector<int64_t>> visible;  // per query
  std::vector<double> bias;                   // per key
};

struct OracleInputs {
  int64_t head_dim = 0;
  double scale = 0;
  std::vector<double> query, key, value, grad_output;
};

struct OracleResult {
  std::vector<double> output, log_sum_exp;
  std::vector<double> grad_query, grad_key, grad_value, grad_bias;
};

enum class Precision { exact, bf16 };  // bf16: every tensor that plain bf16 operations would make is rounded

OracleResult attention_oracle(const OracleInputs& inputs, const OracleKeys& keys, Precision precision);

}  // namespace dga::kernels::testing

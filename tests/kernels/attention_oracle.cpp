#include "kernels/attention_oracle.h"

#include <algorithm>
#include <cmath>

#include "kernels/bf16.h"

namespace dga::kernels::testing {
namespace {

double rounded(double value, Precision precision) {
  return precision == Precision::bf16 ? from_bf16(to_bf16(value)) : value;
}

double dot(const double* a, const double* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

void add_scaled(double* target, const double* source, double factor, int64_t count) {
  for (int64_t i = 0; i < count; ++i) target[i] += factor * source[i];
}

}  // namespace

OracleResult attention_oracle(const OracleInputs& in, const OracleKeys& keys, Precision precision) {
  const int64_t dim = in.head_dim, length = static_cast<int64_t>(keys.visible.size());
  OracleResult result;
  result.output.assign(in.query.size(), 0);
  result.grad_query.assign(in.query.size(), 0);
  result.grad_key.assign(in.key.size(), 0);
  result.grad_value.assign(in.value.size(), 0);
  result.grad_bias.assign(keys.bias.size(), 0);
  result.log_sum_exp.assign(static_cast<size_t>(length), 0);
  for (int64_t t = 0; t < length; ++t) {
    const std::vector<int64_t>& visible = keys.visible[t];
    const double* query = &in.query[t * dim];
    std::vector<double> probability(visible.size());
    double maximum = -INFINITY, total = 0;
    for (size_t i = 0; i < visible.size(); ++i) {
      const double score = rounded(dot(query, &in.key[visible[i] * dim], dim), precision);
      probability[i] = rounded(in.scale * score, precision) + keys.bias[visible[i]];
      maximum = std::max(maximum, probability[i]);
    }
    for (double& p : probability) total += p = std::exp(p - maximum);
    for (double& p : probability) p = rounded(p / total, precision);
    result.log_sum_exp[t] = maximum + std::log(total);

    const double* grad_output = &in.grad_output[t * dim];
    std::vector<double> grad(visible.size());
    double delta = 0;
    for (size_t i = 0; i < visible.size(); ++i) {
      add_scaled(&result.output[t * dim], &in.value[visible[i] * dim], probability[i], dim);
      add_scaled(&result.grad_value[visible[i] * dim], grad_output, probability[i], dim);
      grad[i] = rounded(dot(grad_output, &in.value[visible[i] * dim], dim), precision);
      delta += probability[i] * grad[i];
    }
    for (size_t i = 0; i < visible.size(); ++i) {
      const double grad_score = rounded(probability[i] * (grad[i] - delta), precision);
      result.grad_bias[visible[i]] += grad_score;
      const double scaled = rounded(in.scale * grad_score, precision);
      add_scaled(&result.grad_query[t * dim], &in.key[visible[i] * dim], scaled, dim);
      add_scaled(&result.grad_key[visible[i] * dim], query, scaled, dim);
    }
  }
  for (auto* tensor : {&result.output, &result.grad_query, &result.grad_key, &result.grad_value}) {
    for (double& value : *tensor) value = rounded(value, precision);
  }
  return result;
}

}  // namespace dga::kernels::testing

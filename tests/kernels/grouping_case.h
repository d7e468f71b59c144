#pragma once

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/bf16.h"
#include "kernels/device_buffer.h"
#include "kernels/grouping/grouping.h"
#include "kernels/grouping_oracle.h"

namespace dga::kernels::testing {

struct GroupingCase {
  std::vector<std::vector<int64_t>> starts;  // per row
  int64_t length = 0;
  int64_t kv_heads = 1;
  int64_t group_heads = 1;  // query heads a KV head
  int64_t head_dim = 128;
  GroupingSettings settings;
  GroupPooling pooling = GroupPooling::last_query;
  bool entropy = true;
  int importance_levels = 0;  // this many different importances only; 0: all differ
  double query_scale = 1;     // of the random queries
  int64_t padding = 0;        // entries more than the lists need
  bool heads_inside = false;  // lists as [B, C, G, D] instead of [B, G, C, D]
  uint32_t seed = 1;

  std::string text() const;
};

OracleSettings oracle_settings(const GroupingSettings& settings);

/// A bf16 tensor [B, rows, heads, D] on host and device, possibly inside a larger one.
struct TestTensor {
  std::shared_ptr<DeviceBuffer<uint16_t>> buffer;
  int64_t offset = 0;  // of the first element in the buffer
  TensorRef ref;
  int64_t head_dim = 0;

  static TestTensor make(int64_t batch, int64_t rows, int64_t heads, int64_t head_dim, bool heads_inside);
  int64_t index(int64_t b, int64_t row, int64_t head) const {
    return offset + b * ref.batch_stride + row * ref.row_stride + head * ref.head_stride;
  }
};

/// Query, key and value of a batch as parts of one buffer [B, L, (H + 2 G) D + 8], whose last 8 columns stay NaN.
struct TokenTensors {
  TestTensor query, key, value;
  static TokenTensors make(const GroupingCase& c);
};

std::vector<double> row_of(const std::vector<uint16_t>& host, const TestTensor& tensor, int64_t b, int64_t row,
                           int64_t head);

/// Fills rows [0, rows) with normal numbers times `scale`.
void fill_normal(std::vector<uint16_t>& host, const TestTensor& tensor, int64_t batch, int64_t rows, int64_t heads,
                 double scale, std::mt19937& random);

/// The inputs of a case, the buffers of every stage, and the launches.
struct GroupingRun {
  explicit GroupingRun(const GroupingCase& grouping_case);
  void run_select();
  void run_order();
  void run_forward();
  void run_backward();

  CompressParams common() const;
  int64_t heads() const { return c.kv_heads * c.group_heads; }
  int64_t batch() const { return static_cast<int64_t>(c.starts.size()); }
  int64_t words() const { return (c.length + 31) / 32; }

  GroupingCase c;
  SegmentPlan plan;
  int64_t compact_length, second_length, bias_stride;
  std::vector<float> importance;       // [B, G, L]
  std::vector<uint16_t> tokens_host;   // as in tokens
  std::vector<uint16_t> grads_before;  // as in grads, before run_backward()
  std::vector<uint16_t> grad_compact_host[2], grad_second_host[2];
  std::vector<float> grad_bias_host;  // [B, G, bias_stride]
  DeviceBuffer<uint8_t> table;
  DeviceBuffer<float> importance_device;
  DeviceBuffer<uint32_t> bits;
  DeviceBuffer<int32_t> word_ranks, token_order, first_begin, first_end, second_begin, second_end;
  TokenTensors tokens, grads;
  TestTensor compact[2], second[2], grad_compact[2], grad_second[2];  // keys, values
  DeviceBuffer<float> bias, grad_bias;
  FocalSet focal;
};

/// The oracle's lists of every row and head, from the importances of `run`.
std::vector<std::vector<OracleLists>> oracle_of(const GroupingRun& run);

/// Largest errors seen, each as a share of what is allowed.
struct Errors {
  double compact = 0, bias = 0, grad_key = 0, grad_value = 0, grad_query = 0;
  void merge(const Errors& other);
  std::string text() const;
};

/// Each compares one stage's results with the oracle and reports differences as test failures.
void check_select(const GroupingRun& run, const std::vector<std::vector<OracleLists>>& oracle);
void check_order(const GroupingRun& run, const std::vector<std::vector<OracleLists>>& oracle);
Errors check_forward(const GroupingRun& run, const std::vector<std::vector<OracleLists>>& oracle);
Errors check_backward(const GroupingRun& run, const std::vector<std::vector<OracleLists>>& oracle);
void check_guards(const GroupingRun& run);

}  // namespace dga::kernels::testing

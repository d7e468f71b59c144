#include "kernels/attention/attention.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <random>

#include "kernels/attention_oracle.h"
#include "kernels/bf16.h"
#include "kernels/device_buffer.h"

// The attention kernels against the definition, for random monotone bounds, which are more hostile than any method's.
namespace dga::kernels::testing {
namespace {

struct AttentionCase {
  int64_t batch, length, heads, kv_heads, head_dim, compact, second;
  bool packed = false;  // first_begin rises too
  bool bias = false;
  int64_t second_span = 0;  // short: the backward pass takes the second list in blocks of 64 keys, else of 128
};

constexpr int64_t kShortSpan = 16, kLongSpan = 4096;

std::vector<int32_t> rising(std::mt19937& random, int64_t count, int64_t low, int64_t high) {
  std::vector<int32_t> values(static_cast<size_t>(count));
  for (int32_t& value : values)
    value = std::uniform_int_distribution<int32_t>(static_cast<int32_t>(low), static_cast<int32_t>(high))(random);
  std::sort(values.begin(), values.end());
  return values;
}

// Host copies of everything a call reads, bounds [B, G, L], tensors [B, rows, heads, D] in bf16.
struct HostInputs {
  std::vector<int32_t> first_begin, first_end, second_begin, second_end;
  std::vector<uint16_t> query, compact_key, compact_value, second_key, second_value, grad_output;
  std::vector<float> bias;  // [B, G, stride]
  int64_t bias_stride = 0;
};

std::vector<uint16_t> random_tensor(std::mt19937& random, int64_t count) {
  std::normal_distribution<double> normal;
  std::vector<uint16_t> values(static_cast<size_t>(count));
  for (uint16_t& value : values) value = to_bf16(normal(random));
  return values;
}

HostInputs make_inputs(const AttentionCase& c, uint32_t seed) {
  std::mt19937 random(seed);
  HostInputs in;
  for (int64_t row = 0; row < c.batch * c.kv_heads; ++row) {
    const auto append = [](std::vector<int32_t>& all, const std::vector<int32_t>& part) {
      all.insert(all.end(), part.begin(), part.end());
    };
    auto begin = rising(random, c.length, 0, c.packed ? c.compact : 0), end = rising(random, c.length, 0, c.compact);
    auto low = rising(random, c.length, 0, c.second - 1), high = rising(random, c.length, 1, c.second);
    for (int64_t t = 0; t < c.length; ++t) {
      end[t] = std::max(begin[t], end[t]);
      high[t] = std::max(low[t] + 1, high[t]);  // a query always sees something
    }
    append(in.first_begin, begin);
    append(in.first_end, end);
    append(in.second_begin, low);
    append(in.second_end, high);
  }
  in.query = random_tensor(random, c.batch * c.length * c.heads * c.head_dim);
  in.grad_output = random_tensor(random, c.batch * c.length * c.heads * c.head_dim);
  for (auto* list : {&in.compact_key, &in.compact_value}) {
    *list = random_tensor(random, c.batch * c.compact * c.kv_heads * c.head_dim);
  }
  for (auto* list : {&in.second_key, &in.second_value}) {
    *list = random_tensor(random, c.batch * c.second * c.kv_heads * c.head_dim);
  }
  if (c.bias) {
    in.bias_stride = (c.compact + 3) / 4 * 4;
    std::normal_distribution<float> normal;
    in.bias.resize(static_cast<size_t>(c.batch * c.kv_heads * in.bias_stride));
    for (float& value : in.bias) value = normal(random);
  }
  return in;
}

using Bf16Buffer = DeviceBuffer<uint16_t>;

// One forward and backward call on the device.
class AttentionRun {
 public:
  AttentionRun(const AttentionCase& c, const HostInputs& in, bool deterministic)
      : c_(c),
        bounds_{DeviceBuffer<int32_t>(in.first_begin), DeviceBuffer<int32_t>(in.first_end),
                DeviceBuffer<int32_t>(in.second_begin), DeviceBuffer<int32_t>(in.second_end)},
        query_(in.query),
        grad_output_(in.grad_output),
        compact_key_(in.compact_key),
        compact_value_(in.compact_value),
        second_key_(in.second_key),
        second_value_(in.second_value),
        output(in.query.size()),
        grad_query(in.query.size()),
        grad_compact_key(in.compact_key.size()),
        grad_compact_value(in.compact_key.size()),
        grad_second_key(in.second_key.size()),
        grad_second_value(in.second_key.size()),
        log_sum_exp(static_cast<size_t>(c.batch * c.heads * c.length)),
        bias_(in.bias),
        grad_bias(in.bias.size()) {
    const Shape shape{c.batch, c.length, c.heads, c.kv_heads, c.head_dim, c.compact, c.second, c.second_span};
    DeviceBuffer<uint8_t> workspace(backward_workspace_bytes(shape, deterministic));
    AttentionInputs inputs;
    inputs.shape = shape;
    inputs.query = rows(query_, c.length, c.heads);
    inputs.compact_key = rows(compact_key_, c.compact, c.kv_heads);
    inputs.compact_value = rows(compact_value_, c.compact, c.kv_heads);
    inputs.second_key = rows(second_key_, c.second, c.kv_heads);
    inputs.second_value = rows(second_value_, c.second, c.kv_heads);
    inputs.bounds = {c.packed ? bounds_[0].get() : nullptr, bounds_[1].get(), bounds_[2].get(), bounds_[3].get()};
    inputs.compact_bias = c.bias ? bias_.get() : nullptr;
    inputs.bias_stride = in.bias_stride;
    inputs.scale = static_cast<float>(scale());
    BackwardParams params;
    params.inputs = inputs;
    params.output = rows(output, c.length, c.heads);
    params.log_sum_exp = log_sum_exp.get();
    params.grad_output = rows(grad_output_, c.length, c.heads);
    params.grad_query = rows(grad_query, c.length, c.heads);
    params.grad_compact_key = rows(grad_compact_key, c.compact, c.kv_heads);
    params.grad_compact_value = rows(grad_compact_value, c.compact, c.kv_heads);
    params.grad_second_key = rows(grad_second_key, c.second, c.kv_heads);
    params.grad_second_value = rows(grad_second_value, c.second, c.kv_heads);
    params.grad_bias = c.bias ? grad_bias.get() : nullptr;
    params.deterministic = deterministic;
    params.workspace = workspace.get();
    DeviceBuffer<int> counter(1);
    forward({inputs, params.output, log_sum_exp.get(), counter.get()}, nullptr);
    backward(params, nullptr);
    DGA_CUDA_CHECK(cudaDeviceSynchronize());
    EXPECT_TRUE(workspace.guards_intact());
    for (const Bf16Buffer* buffer :
         {&output, &grad_query, &grad_compact_key, &grad_compact_value, &grad_second_key, &grad_second_value}) {
      EXPECT_TRUE(buffer->guards_intact());
    }
    EXPECT_TRUE(log_sum_exp.guards_intact() && grad_bias.guards_intact());
  }
  double scale() const { return 1 / std::sqrt(static_cast<double>(c_.head_dim)); }

 private:
  TensorRef rows(const Bf16Buffer& buffer, int64_t count, int64_t heads) const {
    return {buffer.get(), count * heads * c_.head_dim, heads * c_.head_dim, c_.head_dim};
  }
  AttentionCase c_;
  DeviceBuffer<int32_t> bounds_[4];
  Bf16Buffer query_, grad_output_, compact_key_, compact_value_, second_key_, second_value_;

 public:
  Bf16Buffer output, grad_query, grad_compact_key, grad_compact_value, grad_second_key, grad_second_value;
  DeviceBuffer<float> log_sum_exp;

 private:
  DeviceBuffer<float> bias_;

 public:
  DeviceBuffer<float> grad_bias;
};

// Sums of squares of errors and values of one tensor over all heads.
struct ErrorSum {
  double kernel = 0, plain = 0, norm = 0;
  int64_t count = 0;
  void add(double actual, double plain_value, double exact) {
    kernel += std::isfinite(actual) ? (actual - exact) * (actual - exact) : INFINITY;
    plain += (plain_value - exact) * (plain_value - exact);
    norm += exact * exact;
    ++count;
  }
  // Where the exact value is zero (one key: no gradient), rounding of what cancels remains: 1e-5 of a unit.
  bool good() const { return std::sqrt(kernel) <= 2 * std::sqrt(plain) + 1e-5 * std::sqrt(static_cast<double>(count)); }
  void print(const char* name) const {
    std::printf(" %s %.1e/%.1e", name, std::sqrt(kernel / std::max(norm, 1e-30)),
                std::sqrt(plain / std::max(norm, 1e-30)));
  }
};

// rows [first, first + count) of head h of a host tensor [B, rows, heads, D], appended as double.
void append_rows(std::vector<double>& target, const std::vector<uint16_t>& tensor, int64_t b, int64_t count,
                 int64_t heads, int64_t h, int64_t dim) {
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t d = 0; d < dim; ++d) target.push_back(from_bf16(tensor[((b * count + row) * heads + h) * dim + d]));
  }
}

void check_span(const AttentionCase& c, bool deterministic) {
  const HostInputs in = make_inputs(c, 7);
  const AttentionRun run(c, in, deterministic);
  const auto output = run.output.download(), grad_query = run.grad_query.download();
  const auto grad_compact_key = run.grad_compact_key.download(), grad_compact_value = run.grad_compact_value.download();
  const auto grad_second_key = run.grad_second_key.download(), grad_second_value = run.grad_second_value.download();
  const auto log_sum_exp = run.log_sum_exp.download(), grad_bias = run.grad_bias.download();
  const int64_t dim = c.head_dim, group = c.heads / c.kv_heads, keys = c.compact + c.second;
  ErrorSum o, lse, dq, dk, dv, db;
  for (int64_t b = 0; b < c.batch; ++b) {
    for (int64_t g = 0; g < c.kv_heads; ++g) {
      OracleKeys visible;
      visible.bias.assign(static_cast<size_t>(keys), 0);
      for (int64_t j = 0; c.bias && j < c.compact; ++j)
        visible.bias[j] = in.bias[(b * c.kv_heads + g) * in.bias_stride + j];
      for (int64_t t = 0; t < c.length; ++t) {
        const int64_t at = (b * c.kv_heads + g) * c.length + t;
        std::vector<int64_t>& seen = visible.visible.emplace_back();
        for (int64_t j = c.packed ? in.first_begin[at] : 0; j < in.first_end[at]; ++j) seen.push_back(j);
        for (int64_t j = in.second_begin[at]; j < in.second_end[at]; ++j) seen.push_back(c.compact + j);
      }
      OracleInputs inputs;
      inputs.head_dim = dim;
      inputs.scale = run.scale();
      append_rows(inputs.key, in.compact_key, b, c.compact, c.kv_heads, g, dim);
      append_rows(inputs.key, in.second_key, b, c.second, c.kv_heads, g, dim);
      append_rows(inputs.value, in.compact_value, b, c.compact, c.kv_heads, g, dim);
      append_rows(inputs.value, in.second_value, b, c.second, c.kv_heads, g, dim);
      OracleResult sums[2];  // gradients of keys, summed over the group's query heads
      for (int64_t h = g * group; h < (g + 1) * group; ++h) {
        inputs.query.clear();
        inputs.grad_output.clear();
        append_rows(inputs.query, in.query, b, c.length, c.heads, h, dim);
        append_rows(inputs.grad_output, in.grad_output, b, c.length, c.heads, h, dim);
        const OracleResult results[2] = {attention_oracle(inputs, visible, Precision::exact),
                                         attention_oracle(inputs, visible, Precision::bf16)};
        for (int64_t t = 0; t < c.length; ++t) {
          const int64_t at = (b * c.heads + h) * c.length + t;
          lse.add(log_sum_exp[at], results[1].log_sum_exp[t], results[0].log_sum_exp[t]);
          for (int64_t d = 0; d < dim; ++d) {
            const int64_t index = ((b * c.length + t) * c.heads + h) * dim + d, flat = t * dim + d;
            o.add(from_bf16(output[index]), results[1].output[flat], results[0].output[flat]);
            dq.add(from_bf16(grad_query[index]), results[1].grad_query[flat], results[0].grad_query[flat]);
          }
        }
        for (int p = 0; p < 2; ++p) {
          if (h == g * group) {
            sums[p] = results[p];
            continue;
          }
          for (size_t i = 0; i < sums[p].grad_key.size(); ++i) sums[p].grad_key[i] += results[p].grad_key[i];
          for (size_t i = 0; i < sums[p].grad_value.size(); ++i) sums[p].grad_value[i] += results[p].grad_value[i];
          for (size_t i = 0; i < sums[p].grad_bias.size(); ++i) sums[p].grad_bias[i] += results[p].grad_bias[i];
        }
      }
      for (int64_t j = 0; j < keys; ++j) {
        const bool compact = j < c.compact;
        const int64_t row = compact ? j : j - c.compact, rows = compact ? c.compact : c.second;
        for (int64_t d = 0; d < dim; ++d) {
          const int64_t index = ((b * rows + row) * c.kv_heads + g) * dim + d, flat = j * dim + d;
          dk.add(from_bf16((compact ? grad_compact_key : grad_second_key)[index]), sums[1].grad_key[flat],
                 sums[0].grad_key[flat]);
          dv.add(from_bf16((compact ? grad_compact_value : grad_second_value)[index]), sums[1].grad_value[flat],
                 sums[0].grad_value[flat]);
        }
        if (c.bias && compact) {
          db.add(grad_bias[(b * c.kv_heads + g) * in.bias_stride + row], sums[1].grad_bias[j], sums[0].grad_bias[j]);
        }
      }
    }
  }
  std::printf(
      "  B %ld L %ld H %ld G %ld D %ld C %ld N %ld span %ld%s%s%s, kernel/plain error:", static_cast<long>(c.batch),
      static_cast<long>(c.length), static_cast<long>(c.heads), static_cast<long>(c.kv_heads), static_cast<long>(dim),
      static_cast<long>(c.compact), static_cast<long>(c.second), static_cast<long>(c.second_span),
      c.packed ? " packed" : "", c.bias ? " bias" : "", deterministic ? " deterministic" : "");
  const std::pair<const char*, const ErrorSum*> tensors[] = {{"O", &o},   {"lse", &lse}, {"dQ", &dq},
                                                             {"dK", &dk}, {"dV", &dv},   {"dbias", &db}};
  for (const auto& [name, sum] : tensors) {
    sum->print(name);
    EXPECT_TRUE(sum->good()) << name << " errs more than twice what plain bf16 operations err";
  }
  std::printf("\n");
}

void check_case(AttentionCase c, bool deterministic) {
  for (const int64_t span : {kShortSpan, kLongSpan}) {
    c.second_span = span;
    check_span(c, deterministic);
  }
}

class AttentionGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no GPU in this machine";
    const std::string reason = supports({1, 1, 1, 1, 128, 0, 1, 0});
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
};

TEST_F(AttentionGpu, HostileLengths) {
  for (const int64_t length : {1, 17, 127, 128, 129, 300}) {
    for (const int64_t dim : {64, 128}) {
      check_case({2, length, 2, 1, dim, std::max<int64_t>(length / 5, 1), length}, false);
    }
  }
}

TEST_F(AttentionGpu, QueryHeadsShareKeys) {
  for (const int64_t group : {1, 4, 8}) check_case({1, 150, 2 * group, 2, 128, 40, 150}, false);
}

TEST_F(AttentionGpu, PackedRowsAndBias) {
  for (const int64_t dim : {64, 128}) {
    for (const bool deterministic : {false, true}) check_case({2, 333, 4, 2, dim, 97, 310, true, true}, deterministic);
  }
}

// More query tiles than multiprocessors, so that a block takes several.
TEST_F(AttentionGpu, ManyTiles) {
  check_case({4, 150, 64, 32, 128, 40, 150}, false);
  check_case({4, 300, 64, 16, 64, 280, 310, true, true}, false);
  check_case({4, 150, 64, 32, 128, 140, 150, false, true}, true);
}
TEST_F(AttentionGpu, LongRow) {
  check_case({1, 1665, 1, 1, 128, 300, 1665}, false);
  check_case({1, 4161, 1, 1, 64, 500, 900}, true);
  check_case({1, 1665, 2, 1, 128, 300, 1665, false, true}, true);
}

TEST_F(AttentionGpu, DeterministicModeRepeatsItsBits) {
  AttentionCase c{1, 4161, 8, 4, 128, 900, 4161};
  const HostInputs in = make_inputs(c, 11);
  for (const int64_t span : {kShortSpan, kLongSpan}) {
    c.second_span = span;
    const auto first = AttentionRun(c, in, true).grad_query.download();
    for (int repeat = 0; repeat < 5; ++repeat) EXPECT_EQ(first, AttentionRun(c, in, true).grad_query.download());
  }
}

TEST_F(AttentionGpu, RefusesOtherShapesInWords) {
  EXPECT_NE(supports({1, 8, 1, 1, 96, 0, 8, 0}).find("96"), std::string::npos);
  EXPECT_NE(supports({1, 8, 3, 2, 128, 0, 8, 0}).find("multiple"), std::string::npos);
}

}  // namespace
}  // namespace dga::kernels::testing

#include "kernels/grouping_case.h"

#include <sstream>

namespace dga::kernels::testing {
namespace {

int64_t at_least_one(int64_t count) { return count > 0 ? count : 1; }

std::vector<uint8_t> table_of(const SegmentPlan& plan) {
  std::vector<uint8_t> bytes(table_bytes(plan));
  write_table(plan, bytes.data());
  return bytes;
}

std::vector<float> random_importance(const GroupingCase& c) {
  std::mt19937 random(c.seed);
  std::vector<float> values(c.starts.size() * c.kv_heads * c.length);
  for (float& value : values) {
    // Wide in exponent, as sums of softmax weights are.
    value = c.importance_levels > 0 ? static_cast<float>(random() % c.importance_levels) * 0.125f
                                    : std::exp(-std::ldexp(static_cast<float>(random()), -28));
  }
  return values;
}

void upload(const std::vector<uint16_t>& host, const TestTensor& tensor) {
  DGA_CUDA_CHECK(cudaMemcpy(tensor.buffer->get(), host.data(), host.size() * 2, cudaMemcpyHostToDevice));
}

}  // namespace

std::string GroupingCase::text() const {
  std::ostringstream out;
  out << starts.size() << " rows (" << starts[0].size() << " sequences in the first) of " << length << ", " << kv_heads
      << " x " << group_heads << " heads of " << head_dim
      << (settings.rule == GroupingRule::block ? ", rule block B " : ", rule sequence w ")
      << (settings.rule == GroupingRule::block ? settings.block_size : settings.local_window) << ", gamma "
      << settings.focal_ratio << ", m " << settings.group_size << (settings.complementary ? "" : ", no complementary")
      << (pooling == GroupPooling::mean ? ", mean" : "") << (entropy ? ", entropy" : "") << ", levels "
      << importance_levels << ", padding " << padding;
  return out.str();
}

OracleSettings oracle_settings(const GroupingSettings& settings) {
  return {settings.rule == GroupingRule::block,
          settings.focal_ratio,
          settings.group_size,
          settings.local_window,
          settings.complementary,
          settings.block_size,
          settings.local_blocks};
}

TestTensor TestTensor::make(int64_t batch, int64_t rows, int64_t heads, int64_t head_dim, bool heads_inside) {
  TestTensor tensor;
  tensor.head_dim = head_dim;
  tensor.buffer = std::make_shared<DeviceBuffer<uint16_t>>(at_least_one(batch * rows * heads * head_dim));
  tensor.ref = {tensor.buffer->get(), rows * heads * head_dim, heads_inside ? heads * head_dim : head_dim,
                heads_inside ? head_dim : rows * head_dim};
  return tensor;
}

TokenTensors TokenTensors::make(const GroupingCase& c) {
  const int64_t d = c.head_dim, heads = c.kv_heads * c.group_heads, row = (heads + 2 * c.kv_heads) * d + 8;
  const auto buffer = std::make_shared<DeviceBuffer<uint16_t>>(c.starts.size() * c.length * row);
  const auto part = [&](int64_t offset) {
    return TestTensor{buffer, offset, {buffer->get() + offset, c.length * row, row, d}, d};
  };
  return {part(0), part(heads * d), part((heads + c.kv_heads) * d)};
}

std::vector<double> row_of(const std::vector<uint16_t>& host, const TestTensor& tensor, int64_t b, int64_t row,
                           int64_t head) {
  std::vector<double> values(tensor.head_dim);
  const int64_t begin = tensor.index(b, row, head);
  for (int64_t d = 0; d < tensor.head_dim; ++d) values[d] = from_bf16(host[begin + d]);
  return values;
}

void fill_normal(std::vector<uint16_t>& host, const TestTensor& tensor, int64_t batch, int64_t rows, int64_t heads,
                 double scale, std::mt19937& random) {
  std::normal_distribution<float> normal(0, static_cast<float>(scale));
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t begin = tensor.index(b, row, head);
        for (int64_t d = 0; d < tensor.head_dim; ++d) host[begin + d] = to_bf16(normal(random));
      }
    }
  }
}

GroupingRun::GroupingRun(const GroupingCase& grouping_case)
    : c(grouping_case),
      plan(plan_segments(c.starts, c.length, c.settings)),
      compact_length(plan.compact_length + c.padding),
      second_length(plan.second_length + (c.settings.rule == GroupingRule::sequence ? c.padding : 0)),
      bias_stride((compact_length + 3) / 4 * 4 + 4),
      importance(random_importance(c)),
      table(table_of(plan)),
      importance_device(importance),
      bits(batch() * c.kv_heads * words()),
      word_ranks(bits.count()),
      token_order(importance.size()),
      first_begin(importance.size()),
      first_end(importance.size()),
      second_begin(importance.size()),
      second_end(importance.size()),
      tokens(TokenTensors::make(c)),
      grads(TokenTensors::make(c)),
      bias(batch() * c.kv_heads * bias_stride),
      grad_bias(bias.count()) {
  std::mt19937 random(c.seed + 1);
  tokens_host = tokens.query.buffer->download();
  fill_normal(tokens_host, tokens.query, batch(), c.length, heads(), c.query_scale, random);
  fill_normal(tokens_host, tokens.key, batch(), c.length, c.kv_heads, 1, random);
  fill_normal(tokens_host, tokens.value, batch(), c.length, c.kv_heads, 1, random);
  upload(tokens_host, tokens.query);
  grads_before = grads.query.buffer->download();
  fill_normal(grads_before, grads.query, batch(), c.length, heads(), 0.1, random);
  if (c.settings.rule == GroupingRule::block) {
    fill_normal(grads_before, grads.key, batch(), c.length, c.kv_heads, 1, random);
    fill_normal(grads_before, grads.value, batch(), c.length, c.kv_heads, 1, random);
  }
  upload(grads_before, grads.query);
  for (int i = 0; i < 2; ++i) {
    for (TestTensor* tensor : {&compact[i], &grad_compact[i]}) {
      *tensor = TestTensor::make(batch(), compact_length, c.kv_heads, c.head_dim, c.heads_inside);
    }
    for (TestTensor* tensor : {&second[i], &grad_second[i]}) {
      *tensor = TestTensor::make(batch(), second_length, c.kv_heads, c.head_dim, c.heads_inside);
    }
    // The gradients of padding are whatever they are: NaN here.
    grad_compact_host[i] = grad_compact[i].buffer->download();
    grad_second_host[i] = grad_second[i].buffer->download();
    fill_normal(grad_compact_host[i], grad_compact[i], batch(), compact_length - c.padding, c.kv_heads, 1, random);
    upload(grad_compact_host[i], grad_compact[i]);
    if (c.settings.rule == GroupingRule::sequence) {
      fill_normal(grad_second_host[i], grad_second[i], batch(), second_length - c.padding, c.kv_heads, 1, random);
      upload(grad_second_host[i], grad_second[i]);
    }
  }
  std::normal_distribution<float> normal;
  grad_bias_host.resize(grad_bias.count());
  for (float& value : grad_bias_host) value = normal(random);
  DGA_CUDA_CHECK(cudaMemcpy(grad_bias.get(), grad_bias_host.data(), grad_bias_host.size() * sizeof(float),
                            cudaMemcpyHostToDevice));
  focal = {table_at(plan, table.get()), batch(), c.length, c.kv_heads, bits.get(), word_ranks.get(), token_order.get()};
}

void GroupingRun::run_select() { select({focal, importance_device.get()}, nullptr); }

void GroupingRun::run_order() {
  order({focal, first_begin.get(), first_end.get(), second_begin.get(), second_end.get()}, nullptr);
}

CompressParams GroupingRun::common() const {
  CompressParams params;
  params.shape = {batch(), c.length, heads(), c.kv_heads, c.head_dim, compact_length, second_length, 0};
  params.focal = focal;
  params.pooling = c.pooling;
  params.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(c.head_dim)));
  if (c.pooling == GroupPooling::last_query) params.query = tokens.query.ref;
  params.key = tokens.key.ref;
  params.value = tokens.value.ref;
  params.bias_stride = bias_stride;
  return params;
}

void GroupingRun::run_forward() {
  CompressForwardParams params{common(), compact[0].ref, compact[1].ref, {}, {}, c.entropy ? bias.get() : nullptr};
  if (c.settings.rule == GroupingRule::sequence) {
    params.second_key = second[0].ref;
    params.second_value = second[1].ref;
  }
  compress_forward(params, nullptr);
}

void GroupingRun::run_backward() {
  CompressBackwardParams params;
  params.common = common();
  params.grad_compact_key = grad_compact[0].ref;
  params.grad_compact_value = grad_compact[1].ref;
  if (c.settings.rule == GroupingRule::sequence) {
    params.grad_second_key = grad_second[0].ref;
    params.grad_second_value = grad_second[1].ref;
  }
  params.grad_bias = c.entropy ? grad_bias.get() : nullptr;
  params.grad_key = grads.key.ref;
  params.grad_value = grads.value.ref;
  if (c.pooling == GroupPooling::last_query) params.grad_query = grads.query.ref;
  compress_backward(params, nullptr);
}

std::vector<std::vector<OracleLists>> oracle_of(const GroupingRun& run) {
  const OracleSettings settings = oracle_settings(run.c.settings);
  std::vector<std::vector<OracleLists>> lists(run.batch());
  for (int64_t b = 0; b < run.batch(); ++b) {
    for (int64_t g = 0; g < run.c.kv_heads; ++g) {
      const auto begin = run.importance.begin() + (b * run.c.kv_heads + g) * run.c.length;
      const std::vector<float> importance(begin, begin + run.c.length);
      lists[b].push_back(oracle_lists(oracle_focal(importance, run.c.starts[b], settings), run.c.starts[b], settings));
    }
  }
  return lists;
}

}  // namespace dga::kernels::testing

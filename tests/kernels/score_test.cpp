#include "kernels/grouping/score.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <random>

#include "kernels/bf16.h"
#include "kernels/device_buffer.h"

// Importance against its definition in double.
namespace dga::kernels::testing {
namespace {

std::vector<uint16_t> random_tensor(std::mt19937& random, int64_t count) {
  std::normal_distribution<double> normal;
  std::vector<uint16_t> values(static_cast<size_t>(count));
  for (uint16_t& value : values) value = to_bf16(normal(random));
  return values;
}

// Queries and keys of one row, [L, H, D] and [L, G, D].
struct Row {
  int64_t length, heads, kv_heads, head_dim;
  std::vector<uint16_t> query, key;

  // Adds softmax over the keys [begin, end) of q(t, h) . k to importance[kv head of h][key].
  void add_attention(std::vector<double>& importance, int64_t t, int64_t h, int64_t begin, int64_t end) const {
    const int64_t g = h / (heads / kv_heads);
    std::vector<double> weights;
    double maximum = -INFINITY, total = 0;
    for (int64_t j = begin; j < end; ++j) {
      double score = 0;
      for (int64_t d = 0; d < head_dim; ++d) {
        score += from_bf16(query[(t * heads + h) * head_dim + d]) * from_bf16(key[(j * kv_heads + g) * head_dim + d]);
      }
      weights.push_back(score / std::sqrt(static_cast<double>(head_dim)));
      maximum = std::max(maximum, weights.back());
    }
    for (double& weight : weights) total += weight = std::exp(weight - maximum);
    for (int64_t j = begin; j < end; ++j) importance[g * length + j] += weights[j - begin] / total;
  }
};

Row make_row(int64_t length, int64_t heads, int64_t kv_heads, int64_t head_dim) {
  std::mt19937 random(3);
  Row row{length, heads, kv_heads, head_dim, {}, {}};
  row.query = random_tensor(random, length * heads * head_dim);
  row.key = random_tensor(random, length * kv_heads * head_dim);
  return row;
}

TensorRef rows(const DeviceBuffer<uint16_t>& buffer, int64_t length, int64_t heads, int64_t dim) {
  return {buffer.get(), length * heads * dim, heads * dim, dim};
}

// fp32 sums of probabilities whose exponents come from bf16 products exact in fp32: 1e-4 of the value is ample.
void compare(const std::vector<float>& actual, const std::vector<double>& expected) {
  double worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] == 0) continue;
    const double error = std::abs(actual[i] - expected[i]) / expected[i];
    worst = std::isfinite(actual[i]) ? std::max(worst, error) : INFINITY;
  }
  std::printf("  worst relative error %.1e\n", worst);
  EXPECT_LE(worst, 1e-4);
}

class ScoreGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no GPU in this machine";
    const std::string reason = supports({1, 1, 1, 1, 128, 0, 1});
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
};

void check_samples(const Row& row, const std::vector<int32_t>& starts, int64_t stride) {
  std::vector<int32_t> positions, begins;
  std::vector<double> expected(static_cast<size_t>(row.kv_heads * row.length), 0);
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t end = i + 1 < starts.size() ? starts[i + 1] : row.length;
    for (int64_t t = starts[i] + (end - starts[i] - 1) % stride; t < end; t += stride) {
      positions.push_back(static_cast<int32_t>(t));
      begins.push_back(starts[i]);
      for (int64_t h = 0; h < row.heads; ++h) row.add_attention(expected, t, h, starts[i], t + 1);
    }
  }
  positions.resize(positions.size() + 3, -1);  // unused entries
  begins.resize(positions.size(), 0);
  const Shape shape{1, row.length, row.heads, row.kv_heads, row.head_dim, 0, 0, 0};
  const auto samples = static_cast<int64_t>(positions.size());
  const DeviceBuffer<uint16_t> query(row.query), key(row.key);
  const DeviceBuffer<int32_t> device_positions(positions), device_begins(begins);
  const DeviceBuffer<float> importance(expected.size());
  const DeviceBuffer<uint8_t> workspace(score_workspace_bytes(shape, samples));
  ScoreParams params;
  params.shape = shape;
  params.query = rows(query, row.length, row.heads, row.head_dim);
  params.key = rows(key, row.length, row.kv_heads, row.head_dim);
  params.table = {device_positions.get(), device_begins.get(), samples};
  params.scale = 1 / std::sqrt(static_cast<float>(row.head_dim));
  params.importance = importance.get();
  params.workspace = workspace.get();
  score(params, nullptr);
  DGA_CUDA_CHECK(cudaDeviceSynchronize());
  EXPECT_TRUE(importance.guards_intact() && workspace.guards_intact());
  const std::vector<float> first = importance.download();
  compare(first, expected);
  score(params, nullptr);
  EXPECT_EQ(first, importance.download()) << "not the same bits twice";
}

TEST_F(ScoreGpu, SampledQueries) {
  check_samples(make_row(1, 1, 1, 128), {0}, 1);
  check_samples(make_row(129, 2, 2, 64), {0}, 1);
  check_samples(make_row(1000, 8, 2, 128), {0}, 7);
  check_samples(make_row(5000, 1, 1, 128), {0}, 100);  // more than one chunk of keys
  check_samples(make_row(700, 4, 2, 128), {0, 3, 200, 201, 450}, 5);
}

void check_blocks(const Row& row, int64_t block_size, int64_t local_blocks) {
  GroupingSettings settings;
  settings.rule = GroupingRule::block;
  settings.block_size = block_size;
  settings.local_blocks = local_blocks;
  const SegmentPlan plan = plan_segments({{0}}, row.length, settings);
  std::vector<uint8_t> table(table_bytes(plan));
  write_table(plan, table.data());
  std::vector<double> expected(static_cast<size_t>(row.kv_heads * row.length), 0);
  for (int64_t block = 0; (block + local_blocks + 1) * block_size < row.length; ++block) {
    const int64_t begin = block * block_size;
    for (int64_t t = begin; t < begin + (local_blocks + 1) * block_size; ++t) {
      for (int64_t h = 0; h < row.heads; ++h) {
        row.add_attention(expected, t, h, begin, std::min(t + 1, begin + block_size));
      }
    }
  }
  const DeviceBuffer<uint16_t> query(row.query), key(row.key);
  const DeviceBuffer<uint8_t> device_table(table);
  const DeviceBuffer<float> importance(expected.size());
  BlockScoreParams params;
  params.shape = {1, row.length, row.heads, row.kv_heads, row.head_dim, 0, 0, 0};
  params.query = rows(query, row.length, row.heads, row.head_dim);
  params.key = rows(key, row.length, row.kv_heads, row.head_dim);
  params.table = table_at(plan, device_table.get());
  params.local_blocks = local_blocks;
  params.scale = 1 / std::sqrt(static_cast<float>(row.head_dim));
  params.importance = importance.get();
  score_blocks(params, nullptr);
  DGA_CUDA_CHECK(cudaDeviceSynchronize());
  EXPECT_TRUE(importance.guards_intact());
  compare(importance.download(), expected);
}

TEST_F(ScoreGpu, Blocks) {
  check_blocks(make_row(1300, 4, 2, 128), 256, 2);
  check_blocks(make_row(1000, 2, 2, 64), 64, 1);
  check_blocks(make_row(777, 4, 1, 128), 100, 0);
  check_blocks(make_row(300, 2, 2, 64), 17, 3);
  check_blocks(make_row(500, 2, 2, 128), 64, 2);  // three tiles of queries, one, for two warpgroups
  check_blocks(make_row(200, 1, 1, 64), 17, 1);
}

}  // namespace
}  // namespace dga::kernels::testing

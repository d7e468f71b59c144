// Importance, selection, pooling and order against plain loops.
#include "ops/grouping.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "ops/importance.h"
#include "support/gradient_check.h"
#include "support/tensor_compare.h"
#include "util/error.h"

namespace dga {
namespace {

using testing::check_gradients;
using testing::compare;

at::Tensor normal(std::vector<int64_t> sizes) { return at::randn(sizes, at::TensorOptions().dtype(at::kDouble)); }
at::Tensor longs(std::vector<std::vector<int64_t>> rows) {
  std::vector<at::Tensor> tensors;
  for (const auto& row : rows) tensors.push_back(at::tensor(row, at::kLong));
  return at::stack(tensors);
}

// Adds softmax over `columns` of scale * q[row, head] . k[column] to sums[column].
void add_attention(const at::Tensor& q, const at::Tensor& k, double scale, std::vector<double>& sums, int64_t first,
                   int64_t count) {
  std::vector<double> weight(static_cast<size_t>(count));
  double total = 0;
  for (int64_t j = 0; j < count; ++j) {
    weight[static_cast<size_t>(j)] = std::exp(scale * at::dot(q, k[first + j]).item<double>());
    total += weight[static_cast<size_t>(j)];
  }
  for (int64_t j = 0; j < count; ++j) sums[static_cast<size_t>(first + j)] += weight[static_cast<size_t>(j)] / total;
}

TEST(Importance, SampledQueriesEqualLoops) {
  at::manual_seed(1);
  const int64_t length = 23, heads = 4, kv_heads = 2;
  const at::Tensor q = normal({length, heads, 3}), k = normal({length, kv_heads, 3});
  const std::vector<int64_t> positions = {0, 4, 5, 17, 22};
  at::Tensor expected = at::zeros({kv_heads, length}, at::kDouble);
  for (int64_t g = 0; g < kv_heads; ++g) {
    std::vector<double> sums(length);
    for (const int64_t s : positions) {
      for (int64_t h = 2 * g; h < 2 * g + 2; ++h) add_attention(q[s][h], k.select(1, g), 0.6, sums, 0, s + 1);
    }
    expected[g] = at::tensor(sums, at::kDouble);
  }
  for (const int64_t chunk_bytes : {0, 1, 2000}) {
    EXPECT_TRUE(
        compare(sampled_importance(q.index_select(0, at::tensor(positions, at::kLong)), positions, k, 0.6, chunk_bytes),
                expected, 1e-13));
  }
}

TEST(Importance, InsideBlocksEqualsLoops) {
  at::manual_seed(2);
  const int64_t heads = 4, kv_heads = 2;
  for (const auto& [block, local, blocks] :
       std::vector<std::tuple<int64_t, int64_t, int64_t>>{{1, 0, 3}, {5, 0, 3}, {5, 2, 3}, {4, 1, 1}}) {
    const at::Tensor q = normal({(blocks + local) * block, heads, 3}), k = normal({blocks * block, kv_heads, 3});
    at::Tensor expected = at::zeros({kv_heads, blocks, block}, at::kDouble);
    for (int64_t g = 0; g < kv_heads; ++g) {
      std::vector<double> sums(static_cast<size_t>(blocks * block));
      for (int64_t c = 0; c < blocks; ++c) {
        for (int64_t s = c * block; s < (c + local + 1) * block; ++s) {
          const int64_t visible = std::min(block, s - c * block + 1);
          for (int64_t h = 2 * g; h < 2 * g + 2; ++h) {
            add_attention(q[s][h], k.select(1, g), 0.6, sums, c * block, visible);
          }
        }
      }
      expected[g] = at::tensor(sums, at::kDouble).view({blocks, block});
    }
    for (const int64_t chunk_bytes : {0, 1, 400, 2000}) {
      EXPECT_TRUE(compare(block_importance(q, k, {block, local}, 0.6, chunk_bytes), expected, 1e-13));
    }
  }
  EXPECT_THROW(block_importance(normal({10, 2, 3}), normal({9, 2, 3}), {5, 0}, 1), Error);
}

TEST(Selection, TakesTheLargestAndTiesGoToTheLowerPosition) {
  const at::Tensor importance = at::tensor({1., 3., 3., 0., 3., 2., 0., 0., 0., 0.}).view({2, 5});
  const FocalSplit split = split_by_importance(importance, 2);
  EXPECT_TRUE(compare(split.focal, longs({{1, 2}, {0, 1}}), 0));
  EXPECT_TRUE(compare(split.others, longs({{0, 3, 4}, {2, 3, 4}}), 0));
  // Enough equal values for a sort that is not stable to show.
  const FocalSplit all_equal = split_by_importance(at::zeros({1, 1000}), 300);
  EXPECT_TRUE(compare(all_equal.focal, at::arange(300).unsqueeze(0), 0));
}

TEST(Selection, AllOrNone) {
  const at::Tensor importance = at::rand({2, 4});
  EXPECT_TRUE(compare(split_by_importance(importance, 4).focal, at::arange(4).expand({2, 4}), 0));
  EXPECT_EQ(split_by_importance(importance, 4).others.sizes(), at::IntArrayRef({2, 0}));
  EXPECT_TRUE(compare(split_by_importance(importance, 0).others, at::arange(4).expand({2, 4}), 0));
  EXPECT_THROW(split_by_importance(importance, 5), Error);
}

TEST(Selection, GivenPositionsLeaveTheOthersInOrder) {
  const FocalSplit split = split_at(longs({{1, 4}, {0, 2}}), 5);
  EXPECT_TRUE(compare(split.others, longs({{0, 2, 3}, {1, 3, 4}}), 0));
}

TEST(TakeRows, GradientsReachTheRowsTaken) {
  at::manual_seed(3);
  const at::Tensor indices = longs({{3, 0}, {1, 4}});
  const auto f = [&](const std::vector<at::Tensor>& in) { return take_rows(in[0], indices); };
  EXPECT_TRUE(check_gradients(f, {normal({6, 2, 3})}, 1e-8));
  const auto permute = [](const std::vector<at::Tensor>& in) { return take_rows(in[0], longs({{2, 0, 1}})); };
  EXPECT_TRUE(check_gradients(permute, {normal({3})}, 1e-8));
}

TEST(Pool, EqualsLoops) {
  at::manual_seed(4);
  const at::Tensor query = normal({2, 3, 4}), keys = normal({2, 3, 5, 4}), values = normal({2, 3, 5, 4});
  const PooledGroups pooled = pool_groups(query, keys, values, PoolWeights::query, 0.7);
  for (int64_t r = 0; r < 2; ++r) {
    for (int64_t g = 0; g < 3; ++g) {
      std::vector<double> sums(5);
      add_attention(query[r][g], keys[r][g], 0.7, sums, 0, 5);
      at::Tensor k = at::zeros({4}, at::kDouble), v = at::zeros({4}, at::kDouble);
      double entropy = 0;
      for (int64_t i = 0; i < 5; ++i) {
        const double p = sums[static_cast<size_t>(i)];
        k += p * keys[r][g][i];
        v += p * values[r][g][i];
        entropy -= p * std::log(p);
      }
      EXPECT_TRUE(compare(pooled.keys[r][g], k, 1e-14));
      EXPECT_TRUE(compare(pooled.values[r][g], v, 1e-14));
      EXPECT_NEAR(pooled.entropy[r][g].item<double>(), entropy, 1e-14);
    }
  }
  const PooledGroups mean = pool_groups({}, keys, values, PoolWeights::mean, 0.7);
  EXPECT_TRUE(compare(mean.keys, keys.mean(2), 1e-15));
  EXPECT_TRUE(compare(mean.values, values.mean(2), 1e-15));
  EXPECT_TRUE(compare(mean.entropy, at::full({2, 3}, std::log(5.0), at::kDouble), 1e-15));
}

TEST(Pool, Gradients) {
  at::manual_seed(5);
  const auto f = [](const std::vector<at::Tensor>& in) {
    const PooledGroups p = pool_groups(in[0], in[1], in[2], PoolWeights::query, 0.7);
    return at::cat({p.keys, p.values, p.entropy.unsqueeze(2)}, 2);
  };
  EXPECT_TRUE(check_gradients(f, {normal({2, 2, 3}), normal({2, 2, 4, 3}), normal({2, 2, 4, 3})}, 1e-8));
  const auto mean = [](const std::vector<at::Tensor>& in) {
    const PooledGroups p = pool_groups({}, in[0], in[1], PoolWeights::mean, 0.7);
    return at::cat({p.keys, p.values}, 2);
  };
  EXPECT_TRUE(check_gradients(mean, {normal({2, 2, 4, 3}), normal({2, 2, 4, 3})}, 1e-8));
}

TEST(Pool, WeightsThatUnderflowGiveNoNan) {
  const at::Tensor query = at::full({1, 1, 1}, 1000.0), keys = at::tensor({1.0f, -1.0f}).view({1, 1, 2, 1});
  const PooledGroups pooled = pool_groups(query, keys, keys, PoolWeights::query, 1.0);
  EXPECT_TRUE(compare(pooled.keys, at::ones({1, 1, 1}), 0));
  EXPECT_TRUE(compare(pooled.entropy, at::zeros({1, 1}), 0));
}

TEST(CompactOrder, SortsByTimeWithFocalTokensFirst) {
  const CompactOrder order = compact_order(longs({{0, 3, 7}}), longs({{3, 6}}));
  EXPECT_TRUE(compare(order.order, longs({{0, 1, 3, 4, 2}}), 0));
  EXPECT_TRUE(compare(order.times, longs({{0, 3, 3, 6, 7}}), 0));
}

}  // namespace
}  // namespace dga

// What depends on what: causality bit for bit, and token-by-token caches.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include "attention/attention.h"
#include "attention/cases.h"
#include "support/tensor_compare.h"
#include "util/random.h"

namespace dga::testing {
namespace {

at::Tensor forward(const Attention& attention, const std::vector<at::Tensor>& in) {
  return attention.forward(in[0], in[1], in[2], SequenceLayout::whole_rows(1, in[0].size(1)));
}

// Replaces everything after position t; returns the first position whose output differs from `before` in any bit.
int64_t first_change(const Attention& attention, const std::vector<at::Tensor>& in, const at::Tensor& before,
                     int64_t t) {
  std::vector<at::Tensor> changed;
  for (const at::Tensor& x : in) {
    changed.push_back(x.clone());
    changed.back().slice(1, t + 1).copy_(at::randn_like(x.slice(1, t + 1)).mul(30));
  }
  const at::Tensor after = forward(attention, changed);
  for (int64_t p = 0; p < in[0].size(1); ++p) {
    if (!at::equal(before.select(1, p), after.select(1, p))) return p;
  }
  return in[0].size(1);
}

TEST(Causality, CausalSelectionNeverLooksAheadBitForBit) {
  at::manual_seed(1);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    for (const auto& [block, local] : std::vector<std::pair<int64_t, int64_t>>{{1, 0}, {16, 0}, {32, 1}, {100, 2}}) {
      const std::vector<at::Tensor> in = random_heads({1, 700, 4, 2, 16}, type);
      AttentionConfig config = dga_config(Selection::causal);
      config.block_size = block;
      config.local_blocks = local;
      config.group_bias = GroupBias::entropy;
      const auto attention = make_attention(config, 0, 0);
      EXPECT_FALSE(attention->looks_ahead());
      const at::Tensor before = forward(*attention, in);
      for (const int64_t t : {0, 15, 16, 31, 63, 127, 128, 299, 300, 511, 698}) {
        EXPECT_EQ(first_change(*attention, in, before, t), t + 1)
            << "block " << block << " x " << local << ", type " << type;
      }
    }
  }
}

TEST(Causality, FullReferenceAndPositionRulesNeverLookAheadBitForBit) {
  at::manual_seed(2);
  const std::vector<at::Tensor> in = random_heads({1, 400, 4, 2, 8}, at::kFloat);
  std::vector<AttentionConfig> configs = {full_config(AttentionBackend::reference), dga_config(Selection::random),
                                          dga_config(Selection::none)};
  configs.push_back(window_config(AttentionKind::streaming, 4, 20));
  configs.push_back(window_config(AttentionKind::streaming, 4, 20, SinkPositions::cache));
  configs.push_back(window_config(AttentionKind::lm_infinite, 4, 20));
  configs.push_back(window_config(AttentionKind::longformer, 30, 20));
  for (AttentionConfig& config : configs) {
    config.local_window = 20;
    const auto attention = make_attention(config, 0, 0, test_frequencies(8));
    EXPECT_FALSE(attention->looks_ahead());
    const at::Tensor before = forward(*attention, in);
    for (const int64_t t : {0, 127, 255, 398}) EXPECT_EQ(first_change(*attention, in, before, t), t + 1);
  }
}

// The test above can fail: the global rule does look ahead, and says so.
TEST(Causality, GlobalSelectionLooksAhead) {
  at::manual_seed(3);
  const std::vector<at::Tensor> in = random_heads({1, 400, 4, 2, 8}, at::kFloat);
  AttentionConfig config = dga_config(Selection::global);
  config.local_window = 20;
  const auto attention = make_attention(config, 0, 0);
  EXPECT_TRUE(attention->looks_ahead());
  EXPECT_LT(first_change(*attention, in, forward(*attention, in), 300), 301);
}

// Appends the tokens in pieces of the given sizes (repeated) and compares with the one pass.
void expect_cache(const AttentionConfig& config, const std::vector<at::Tensor>& in,
                  const std::vector<int64_t>& pieces) {
  const int64_t length = in[0].size(1);
  SCOPED_TRACE(str("L ", length, " first piece ", pieces[0], " ", describe(config)));
  const auto attention = make_attention(config, 0, 0, test_frequencies(in[0].size(3)));
  const at::Tensor expected = attention->forward(in[0], in[1], in[2], SequenceLayout::whole_rows(1, length));
  const std::unique_ptr<AttentionCache> cache = attention->make_cache();
  std::vector<at::Tensor> outputs;
  for (size_t i = 0; cache->length() < length; ++i) {
    const int64_t begin = cache->length(), end = std::min(length, begin + pieces[i % pieces.size()]);
    const auto part = [&](const at::Tensor& x) { return x.slice(1, begin, end); };
    outputs.push_back(cache->append(part(in[0]), part(in[1]), part(in[2])));
  }
  EXPECT_TRUE(compare(at::cat(outputs, 1), expected, 1e-12));
}

TEST(Cache, FullEqualsThePass) {
  at::manual_seed(4);
  for (const AttentionBackend backend : {AttentionBackend::reference, AttentionBackend::sdpa}) {
    for (const int64_t length : {1, 2, 65, 130}) {
      const std::vector<at::Tensor> in = random_heads({1, length, 4, 2, 4});
      for (const auto& pieces : std::vector<std::vector<int64_t>>{{1}, {length}, {40, 1}, {7, 1, 30}}) {
        expect_cache(full_config(backend), in, pieces);
      }
    }
  }
}

TEST(Cache, CausalSelectionEqualsThePass) {
  at::manual_seed(5);
  for (const int64_t length : {1, 2, 64, 130}) {
    for (const auto& [block, local] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 0}, {1, 3}, {7, 0}, {16, 1}, {5, 4}, {200, 1}}) {
      const std::vector<at::Tensor> in = random_heads({1, length, 4, 2, 4});
      for (const GroupBias bias : {GroupBias::none, GroupBias::entropy}) {
        AttentionConfig config = dga_config(Selection::causal);
        config.block_size = block;
        config.local_blocks = local;
        config.group_size = 3;
        config.group_bias = bias;
        for (const auto& pieces : std::vector<std::vector<int64_t>>{{1}, {length}, {40, 1}, {7, 1, 30}, {16}}) {
          expect_cache(config, in, pieces);
        }
      }
    }
  }
}

TEST(Cache, WindowKindsEqualThePass) {
  at::manual_seed(8);
  for (const int64_t length : {1, 5, 130}) {
    const std::vector<at::Tensor> in = random_heads({1, length, 4, 2, 4});
    for (const int64_t sinks : {0, 4}) {
      for (const int64_t window : {1, 9, 64, 500}) {
        for (const AttentionConfig& config :
             {window_config(AttentionKind::streaming, sinks, window),
              window_config(AttentionKind::streaming, sinks, window, SinkPositions::cache),
              window_config(AttentionKind::lm_infinite, sinks, window),
              window_config(AttentionKind::longformer, 3 * sinks, window)}) {
          for (const auto& pieces : std::vector<std::vector<int64_t>>{{1}, {length}, {40, 1}, {7, 1, 30}}) {
            expect_cache(config, in, pieces);
          }
        }
      }
    }
  }
}

TEST(Cache, RulesOverTheWholeSequenceAreRefusedByName) {
  for (const Selection selection : {Selection::global, Selection::random, Selection::none}) {
    try {
      make_attention(dga_config(selection), 0, 0)->make_cache();
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::config);
      EXPECT_NE(std::string(error.what()).find("attention.selection: " + config::name_of(selection)), std::string::npos)
          << error.what();
    }
  }
}

TEST(Cache, RefusesTokensThatDoNotFit) {
  const auto cache = make_attention(dga_config(Selection::causal), 0, 0)->make_cache();
  const std::vector<at::Tensor> in = random_heads({2, 3, 4, 2, 4});
  EXPECT_THROW(cache->append(in[0], in[1], in[2]), Error);
}

class CausalityGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(CausalityGpu, CausalSelectionNeverLooksAheadBitForBit) {
  at::manual_seed(6);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    std::vector<at::Tensor> in;
    for (const at::Tensor& x : random_heads({1, 700, 4, 2, 64}, type)) in.push_back(x.cuda());
    AttentionConfig config = dga_config(Selection::causal);
    config.block_size = 32;
    config.local_blocks = 1;
    config.group_bias = GroupBias::entropy;
    const auto attention = make_attention(config, 0, 0);
    const at::Tensor before = forward(*attention, in);
    EXPECT_TRUE(at::equal(before, forward(*attention, in)));
    for (const int64_t t : {0, 31, 128, 299, 511, 698}) EXPECT_EQ(first_change(*attention, in, before, t), t + 1);
  }
}

TEST_F(CausalityGpu, CachesEqualThePass) {
  at::manual_seed(7);
  std::vector<at::Tensor> in;
  for (const at::Tensor& x : random_heads({1, 130, 4, 2, 8})) in.push_back(x.cuda());
  AttentionConfig config = dga_config(Selection::causal);
  config.block_size = 16;
  config.local_blocks = 1;
  for (const auto& pieces : std::vector<std::vector<int64_t>>{{1}, {130}, {40, 1}}) {
    expect_cache(config, in, pieces);
    expect_cache(full_config(AttentionBackend::sdpa), in, pieces);
  }
}

}  // namespace
}  // namespace dga::testing

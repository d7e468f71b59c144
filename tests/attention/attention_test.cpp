// Both kinds against the set-membership oracle, and the limits in which dga is full attention.
#include "attention/attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include "attention/cases.h"
#include "attention/membership_oracle.h"
#include "support/tensor_compare.h"
#include "util/random.h"

namespace dga::testing {
namespace {

constexpr uint64_t kSeed = 7;
constexpr int64_t kLayer = 3;

// Compares output and gradients with the oracle's; also the visible pairs.
void expect_oracle(const Heads& shape, const AttentionConfig& config, const SequenceLayout& layout,
                   at::Device device = at::kCPU) {
  SCOPED_TRACE(str("L ", shape.length, " heads ", shape.heads, "/", shape.kv_heads, " ", describe(config)));
  const std::vector<at::Tensor> in = random_heads(shape);
  const at::Tensor dout = at::randn_like(in[0]);
  const at::Tensor frequencies = test_frequencies(shape.width);
  const auto expected = with_gradients(
      [&](const auto& q, const auto& k, const auto& v) {
        return oracle_attention(q, k, v, layout, config, kLayer, kSeed, frequencies).out;
      },
      in, dout);
  const std::unique_ptr<Attention> attention = make_attention(config, kLayer, kSeed, frequencies);
  std::vector<at::Tensor> device_in;
  for (const at::Tensor& x : in) device_in.push_back(x.to(device));
  const auto actual =
      with_gradients([&](const auto& q, const auto& k, const auto& v) { return attention->forward(q, k, v, layout); },
                     device_in, dout.to(device));
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(compare(actual[i].cpu(), expected[i], 1e-10)) << kTensorNames[i];
}

const std::vector<int64_t> kLengths = {1, 2, 17, 63, 64, 65, 127, 130, 257};

// The i-th of a fixed sequence of settings, drawn field by field.
AttentionConfig drawn_config(Selection selection, uint64_t i) {
  const CounterRng rng({key_of("attention cases"), static_cast<uint64_t>(selection), i});
  uint64_t counter = 0;
  const auto pick = [&](auto values) { return values.begin()[rng.bits(counter++) % values.size()]; };
  AttentionConfig c = dga_config(selection);
  c.focal_ratio = pick(std::initializer_list<double>{0.0, 0.05, 0.1, 0.3, 0.7, 1.0});
  c.group_size = pick(std::initializer_list<int64_t>{1, 2, 3, 5, 16, 40});
  c.sampled_queries = pick(std::initializer_list<int64_t>{1, 2, 7, 64, 1024});
  c.query_sampling = pick(std::initializer_list<QuerySampling>{QuerySampling::strided, QuerySampling::strided,
                                                               QuerySampling::recent, QuerySampling::random});
  c.local_window = pick(std::initializer_list<int64_t>{0, 1, 9, 32, 1000});
  c.group_weights =
      pick(std::initializer_list<GroupWeights>{GroupWeights::last_query, GroupWeights::last_query, GroupWeights::mean});
  c.complementary = selection == Selection::causal || pick(std::initializer_list<bool>{true, true, false});
  c.group_bias = pick(std::initializer_list<GroupBias>{GroupBias::none, GroupBias::entropy});
  c.block_size = pick(std::initializer_list<int64_t>{1, 2, 7, 16, 32, 64, 100});
  c.local_blocks = pick(std::initializer_list<int64_t>{0, 0, 1, 2, 5});
  return c;
}

Heads drawn_heads(int64_t length, uint64_t i) {
  const CounterRng rng({key_of("attention heads"), static_cast<uint64_t>(length), i});
  const int64_t ratio = int64_t{1} << (rng.bits(0) % 4), kv_heads = 1 + static_cast<int64_t>(rng.bits(1) % 2);
  return {1, length, ratio * kv_heads, kv_heads, 3 + static_cast<int64_t>(rng.bits(2) % 4)};
}

class DgaOracle : public ::testing::TestWithParam<Selection> {};

TEST_P(DgaOracle, OutputAndGradientsOverLengthsAndSettings) {
  at::manual_seed(1);
  uint64_t i = 0;
  for (const int64_t length : kLengths) {
    for (int repeat = 0; repeat < 8; ++repeat, ++i) {
      expect_oracle(drawn_heads(length, i), drawn_config(GetParam(), i), SequenceLayout::whole_rows(1, length));
    }
  }
}

TEST_P(DgaOracle, PackedDocumentsAreIndependentSequences) {
  at::manual_seed(2);
  for (uint64_t i = 0; i < 8; ++i) {
    AttentionConfig config = drawn_config(GetParam(), 100 + i);
    config.local_window = std::min<int64_t>(config.local_window, 9);
    config.block_size = std::min<int64_t>(config.block_size, 7);
    const SequenceLayout layout{{{0, 1, 2, 40, 97}, {0, 64}}, {1300, 2600}};
    expect_oracle({2, 130, 4, 2, 4}, config, layout);
  }
}

INSTANTIATE_TEST_SUITE_P(Selections, DgaOracle,
                         ::testing::Values(Selection::global, Selection::causal, Selection::random, Selection::none),
                         [](const auto& test) { return config::name_of(test.param); });

TEST(Full, BackendsEqualTheOracle) {
  at::manual_seed(3);
  for (const AttentionBackend backend : {AttentionBackend::reference, AttentionBackend::sdpa}) {
    for (const int64_t length : kLengths) {
      for (const int64_t ratio : {1, 2, 4, 8}) {
        expect_oracle({2, length, 2 * ratio, 2, 4}, full_config(backend), SequenceLayout::whole_rows(2, length));
      }
    }
    expect_oracle({2, 65, 4, 2, 4}, full_config(backend), {{{0, 1, 30}, {0}}, {0, 65}});
  }
}

/// The kinds with first tokens and a window, and how they number the first tokens.
struct WindowKind {
  AttentionKind kind;
  SinkPositions positions;
};
const std::vector<WindowKind> kWindowKinds = {{AttentionKind::streaming, SinkPositions::absolute},
                                              {AttentionKind::streaming, SinkPositions::cache},
                                              {AttentionKind::lm_infinite, SinkPositions::absolute},
                                              {AttentionKind::longformer, SinkPositions::absolute}};

TEST(Window, EqualsTheOracleOverLengthsAndSettings) {
  at::manual_seed(10);
  for (const WindowKind& kind : kWindowKinds) {
    uint64_t i = 0;
    for (const int64_t length : {1, 2, 17, 64, 65, 130}) {
      for (const int64_t sinks : {0, 1, 4, 40}) {
        for (const int64_t window : {1, 7, 32, 200}) {
          const int64_t ratio = 1 + static_cast<int64_t>(++i % 3);
          expect_oracle({1, length, 2 * ratio, 2, 4}, window_config(kind.kind, sinks, window, kind.positions),
                        SequenceLayout::whole_rows(1, length));
        }
      }
    }
  }
}

TEST(Window, PackedDocumentsAreIndependentSequences) {
  at::manual_seed(11);
  for (const WindowKind& kind : kWindowKinds) {
    expect_oracle({2, 130, 4, 2, 4}, window_config(kind.kind, 3, 9, kind.positions),
                  {{{0, 1, 2, 40, 97}, {0, 64}}, {1300, 2600}});
  }
}

TEST(Full, KindPerLayer) {
  AttentionConfig config = dga_config(Selection::none);
  config.layers = {{"0-1", AttentionKind::full}};
  EXPECT_EQ(make_attention(config, 1, kSeed)->visible_pairs(4), 10);
  config.local_window = 0;
  config.group_size = 2;
  EXPECT_EQ(make_attention(config, 2, kSeed)->visible_pairs(4), 1 + 1 + 2 + 2);
}

// Where the method is full attention, to rounding.
void expect_full(const Heads& shape, const AttentionConfig& config) {
  SCOPED_TRACE(str("L ", shape.length, " ", describe(config)));
  const std::vector<at::Tensor> in = random_heads(shape);
  const at::Tensor dout = at::randn_like(in[0]);
  const SequenceLayout layout = SequenceLayout::whole_rows(shape.batch, shape.length);
  const auto run = [&](const AttentionConfig& c) {
    const auto attention = make_attention(c, kLayer, kSeed, test_frequencies(shape.width));
    return with_gradients(
        [&](const auto& q, const auto& k, const auto& v) { return attention->forward(q, k, v, layout); }, in, dout);
  };
  const auto actual = run(config), expected = run(full_config(AttentionBackend::sdpa));
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(compare(actual[i], expected[i], 1e-11)) << kTensorNames[i];
}

TEST(Limits, AllTokensFocal) {
  for (const Selection selection : {Selection::global, Selection::random, Selection::causal}) {
    AttentionConfig config = dga_config(selection);
    config.focal_ratio = 1;
    config.block_size = 16;
    config.local_window = 0;
    config.group_bias = GroupBias::entropy;
    expect_full({2, 130, 4, 2, 4}, config);
  }
}

TEST(Limits, GroupsOfOneToken) {
  for (const Selection selection : {Selection::global, Selection::random, Selection::none, Selection::causal}) {
    for (const double ratio : {0.0, 0.1, 0.5}) {
      AttentionConfig config = dga_config(selection);
      config.focal_ratio = ratio;
      config.group_size = 1;
      config.block_size = 16;
      config.local_window = 5;
      config.group_bias = GroupBias::entropy;
      expect_full({1, 130, 4, 2, 4}, config);
    }
  }
}

TEST(Limits, GroupLargerThanTheNonFocalTokens) {
  AttentionConfig config = dga_config(Selection::global);
  config.local_window = 0;
  config.group_size = 118;  // 130 - ceil(13) = 117 are not focal
  expect_full({1, 130, 4, 2, 4}, config);
}

TEST(Limits, WindowAtLeastTheLength) {
  for (const Selection selection : {Selection::global, Selection::random, Selection::none}) {
    for (const int64_t window : {int64_t{130}, std::numeric_limits<int64_t>::max()}) {
      AttentionConfig config = dga_config(selection);
      config.local_window = window;
      expect_full({1, 130, 4, 2, 4}, config);
    }
  }
}

TEST(Limits, WindowKindsThatSeeEverything) {
  for (const WindowKind& kind : kWindowKinds) {
    for (const int64_t window : {int64_t{130}, std::numeric_limits<int64_t>::max()}) {
      expect_full({1, 130, 4, 2, 4}, window_config(kind.kind, 4, window, kind.positions));
    }
  }
  // First tokens without end are all tokens, at the positions that they have.
  for (const AttentionKind kind : {AttentionKind::streaming, AttentionKind::longformer}) {
    expect_full({1, 130, 4, 2, 4}, window_config(kind, std::numeric_limits<int64_t>::max(), 1));
  }
}

TEST(Limits, CompressionOfContextIsTheGroupsWithoutFocalTokens) {
  // CCA: without groups of more than a token, or with a window beyond the sequence, it is full attention too.
  AttentionConfig config = dga_config(Selection::none);
  config.local_window = 32;
  config.group_size = 1;
  expect_full({1, 130, 4, 2, 4}, config);
}

TEST(Limits, CausalInsideTheLocalBlocks) {
  AttentionConfig config = dga_config(Selection::causal);
  config.block_size = 43;
  config.local_blocks = 2;
  expect_full({1, 129, 4, 2, 4}, config);
  config.block_size = 5;
  config.local_blocks = std::numeric_limits<int64_t>::max();
  expect_full({1, 129, 4, 2, 4}, config);
}

// Data-independent settings, so that low precision cannot change which tokens are focal.
double worst_ratio(const AttentionConfig& config, at::ScalarType type, at::Device device = at::kCPU) {
  const std::vector<at::Tensor> in = random_heads({1, 257, 8, 2, 16}, type);
  const SequenceLayout layout = SequenceLayout::whole_rows(1, 257);
  const at::Tensor exact = oracle_attention(in[0].to(at::kDouble), in[1].to(at::kDouble), in[2].to(at::kDouble), layout,
                                            config, kLayer, kSeed)
                               .out;
  // The plain formula of full attention in the same precision sets the scale.
  const auto dense = [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    const at::Tensor kk = k.repeat_interleave(4, 2), vv = v.repeat_interleave(4, 2);
    const at::Tensor logits = at::matmul(q.transpose(1, 2), kk.permute({0, 2, 3, 1})) * 0.25;
    const at::Tensor mask = at::ones({257, 257}, at::kBool).tril();
    const at::Tensor weights = at::softmax(at::where(mask, logits, -std::numeric_limits<double>::infinity()), -1);
    return at::matmul(weights.to(q.scalar_type()), vv.transpose(1, 2)).transpose(1, 2);
  };
  const double plain =
      max_error(dense(in[0], in[1], in[2]), dense(in[0].to(at::kDouble), in[1].to(at::kDouble), in[2].to(at::kDouble)));
  const auto attention = make_attention(config, kLayer, kSeed);
  const at::Tensor out = attention->forward(in[0].to(device), in[1].to(device), in[2].to(device), layout);
  return max_error(out, exact) / plain;
}

TEST(Precision, ErrsAtMostTwiceThePlainFormula) {
  at::manual_seed(4);
  AttentionConfig dga = dga_config(Selection::random);
  dga.local_window = 20;
  dga.group_bias = GroupBias::entropy;
  for (const AttentionConfig& config : {full_config(AttentionBackend::reference), dga}) {
    EXPECT_LE(worst_ratio(config, at::kFloat), 2);
    EXPECT_LE(worst_ratio(config, at::kBFloat16), 2);
  }
}

TEST(Determinism, RepeatedCallsGiveTheSameBits) {
  at::manual_seed(5);
  const std::vector<at::Tensor> in = random_heads({2, 300, 8, 2, 8}, at::kFloat);
  const SequenceLayout layout{{{0, 120}, {0}}, {0, 300}};
  for (const Selection selection : {Selection::global, Selection::causal, Selection::random}) {
    AttentionConfig config = dga_config(selection);
    config.local_window = 16;
    config.block_size = 32;
    const auto attention = make_attention(config, kLayer, kSeed);
    EXPECT_TRUE(
        at::equal(attention->forward(in[0], in[1], in[2], layout), attention->forward(in[0], in[1], in[2], layout)));
  }
}

TEST(Determinism, RandomSelectionDependsOnSeedLayerAndSequence) {
  at::manual_seed(6);
  const std::vector<at::Tensor> in = random_heads({1, 60, 2, 1, 4});
  AttentionConfig config = dga_config(Selection::random);
  config.local_window = 0;
  const auto run = [&](int64_t layer, uint64_t seed, int64_t first_token) {
    return make_attention(config, layer, seed)->forward(in[0], in[1], in[2], {{{0}}, {first_token}});
  };
  const at::Tensor base = run(0, 1, 0);
  EXPECT_TRUE(at::equal(base, run(0, 1, 0)));
  EXPECT_FALSE(at::equal(base, run(1, 1, 0)));
  EXPECT_FALSE(at::equal(base, run(0, 2, 0)));
  EXPECT_FALSE(at::equal(base, run(0, 1, 60)));
}

TEST(Errors, AreNamed) {
  const std::vector<at::Tensor> in = random_heads({1, 4, 4, 2, 4});
  const auto attention = make_attention(dga_config(Selection::global), 0, 0);
  EXPECT_THROW(attention->forward(in[0], in[1], in[2].to(at::kFloat), SequenceLayout::whole_rows(1, 4)), Error);
  EXPECT_THROW(attention->forward(in[0], in[1], in[2], SequenceLayout::whole_rows(2, 4)), Error);
  EXPECT_THROW(attention->forward(in[0], in[1], in[2], {{{0, 4}}, {0}}), Error);
  EXPECT_THROW(attention->forward(in[0], in[1], in[2], {{{1}}, {0}}), Error);
  EXPECT_THROW(attention->forward(in[0].slice(2, 0, 3), in[1], in[2], SequenceLayout::whole_rows(1, 4)), Error);
  AttentionConfig config = dga_config(Selection::global);
  config.backend = AttentionBackend::sdpa;
  EXPECT_THROW(make_attention(config, 0, 0), Error);
}

class AttentionGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(AttentionGpu, EqualsTheOracle) {
  at::manual_seed(7);
  uint64_t i = 0;
  for (const int64_t length : {1, 17, 65, 130}) {
    for (const Selection selection : {Selection::global, Selection::causal, Selection::random, Selection::none}) {
      ++i;
      expect_oracle(drawn_heads(length, i), drawn_config(selection, i), SequenceLayout::whole_rows(1, length),
                    at::kCUDA);
    }
    expect_oracle({2, length, 8, 2, 4}, full_config(AttentionBackend::reference), SequenceLayout::whole_rows(2, length),
                  at::kCUDA);
    expect_oracle({2, length, 8, 2, 4}, full_config(AttentionBackend::sdpa), SequenceLayout::whole_rows(2, length),
                  at::kCUDA);
  }
}

TEST_F(AttentionGpu, WindowKindsEqualTheOracleByTheReferenceAndRefuseKernels) {
  at::manual_seed(12);
  for (const WindowKind& kind : kWindowKinds) {
    AttentionConfig config = window_config(kind.kind, 4, 32, kind.positions);
    const std::vector<at::Tensor> in = random_heads({1, 130, 4, 2, 4}, at::kFloat);
    EXPECT_THROW(make_attention(config, 0, 0, test_frequencies(4))
                     ->forward(in[0].cuda(), in[1].cuda(), in[2].cuda(), SequenceLayout::whole_rows(1, 130)),
                 Error);
    config.backend = AttentionBackend::reference;
    expect_oracle({1, 130, 4, 2, 4}, config, SequenceLayout::whole_rows(1, 130), at::kCUDA);
  }
}

TEST_F(AttentionGpu, PackedDocuments) {
  at::manual_seed(8);
  for (uint64_t i = 0; i < 4; ++i) {
    AttentionConfig config = drawn_config(i % 2 == 0 ? Selection::global : Selection::causal, 200 + i);
    config.local_window = std::min<int64_t>(config.local_window, 9);
    config.block_size = std::min<int64_t>(config.block_size, 7);
    expect_oracle({2, 130, 4, 2, 4}, config, {{{0, 1, 2, 40, 97}, {0, 64}}, {1300, 2600}}, at::kCUDA);
  }
}

TEST_F(AttentionGpu, ErrsAtMostTwiceThePlainFormula) {
  at::manual_seed(9);
  AttentionConfig dga = dga_config(Selection::random);
  dga.local_window = 20;
  dga.group_bias = GroupBias::entropy;
  for (const AttentionConfig& config : {full_config(AttentionBackend::reference), dga}) {
    EXPECT_LE(worst_ratio(config, at::kFloat, at::kCUDA), 2);
    EXPECT_LE(worst_ratio(config, at::kBFloat16, at::kCUDA), 2);
  }
}

}  // namespace
}  // namespace dga::testing

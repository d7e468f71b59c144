// Settings, layouts and the count of visible pairs.
#include "attention/config.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "attention/cases.h"
#include "attention/membership_oracle.h"
#include "attention/query_sampling.h"
#include "attention/sequence_layout.h"
#include "config/load.h"

namespace dga::testing {
namespace {

using Layers = std::vector<int64_t>;

TEST(LayerList, ParsesNumbersAndRanges) {
  EXPECT_EQ(parse_layers("0-3,8"), (Layers{0, 1, 2, 3, 8}));
  EXPECT_EQ(parse_layers(" 5 , 2 - 2 "), (Layers{5, 2}));
  for (const char* bad : {"", "a", "1-", "-1", "3-1", "1,,2", "1.5", "0-999999999999", "0x1"}) {
    EXPECT_FALSE(parse_layers(bad).has_value()) << bad;
  }
}

TEST(LayerList, LaterEntriesWin) {
  AttentionConfig config = dga_config(Selection::global);
  config.layers = {{"0-3", AttentionKind::full}, {"2", AttentionKind::dga}};
  const std::vector<AttentionKind> expected = {AttentionKind::full, AttentionKind::full, AttentionKind::dga,
                                               AttentionKind::full, AttentionKind::dga};
  for (int64_t layer = 0; layer < 5; ++layer) {
    EXPECT_EQ(kind_of_layer(config, layer), expected[static_cast<size_t>(layer)]);
  }
}

AttentionConfig loaded(const std::vector<std::string>& assignments) {
  AttentionConfig config;
  dga::config::Document("", assignments).read_into(config);
  return config;
}

TEST(AttentionConfig, DefaultsAreThoseOfTheMethod) {
  const AttentionConfig config = loaded({"kind=dga"});
  EXPECT_EQ(config.focal_ratio, 0.1);
  EXPECT_EQ(config.group_size, 16);
  EXPECT_EQ(config.selection, Selection::global);
  EXPECT_EQ(config.sampled_queries, 1024);
  EXPECT_EQ(config.query_sampling, QuerySampling::strided);
  EXPECT_EQ(config.local_window, 1024);
  EXPECT_EQ(config.group_weights, GroupWeights::last_query);
  EXPECT_TRUE(config.complementary);
  EXPECT_EQ(config.group_bias, GroupBias::none);
  EXPECT_EQ(config.block_size, 256);
  EXPECT_EQ(config.local_blocks, 2);
}

TEST(AttentionConfig, RefusesContradictionsAndRanges) {
  for (const std::vector<std::string>& bad :
       std::vector<std::vector<std::string>>{{"kind=dga", "backend=sdpa"},
                                             {"kind=full", "backend=sdpa", "layers=[{layers: \"1\", kind: dga}]"},
                                             {"kind=dga", "selection=causal", "complementary=false"},
                                             {"kind=streaming", "backend=sdpa"},
                                             {"layers=[{layers: \"1\", kind: lm_infinite}]", "backend=kernel"},
                                             {"kind=streaming", "sink_positions=cache", "backend=kernel"},
                                             {"kind=lm_infinite", "window=0"},
                                             {"layers=[{layers: \"3-1\", kind: dga}]"},
                                             {"group_size=0"},
                                             {"block_size=0"},
                                             {"local_blocks=-1"},
                                             {"sampled_queries=0"},
                                             {"local_window=-1"},
                                             {"focal_ratio=1.5"},
                                             {"selection=globel"}}) {
    EXPECT_THROW(loaded(bad), Error) << bad.back();
  }
  EXPECT_EQ(loaded({"kind=dga", "selection=causal", "block_size=1", "local_blocks=0"}).local_blocks, 0);
  for (const char* kind : {"kind=streaming", "kind=longformer"}) EXPECT_NO_THROW(loaded({kind, "backend=kernel"}));
}

TEST(FocalCount, IsTheCeilingOfTheDoubleProduct) {
  EXPECT_EQ(focal_count(0.1, 10), 1);
  EXPECT_EQ(focal_count(0.1, 11), 2);
  EXPECT_EQ(focal_count(0.1, 3), 1);
  EXPECT_EQ(focal_count(0.07, 100), 8);  // 0.07 * 100 is 7.000000000000001
  EXPECT_EQ(focal_count(1, 257), 257);
  EXPECT_EQ(focal_count(0, 257), 0);
}

TEST(QuerySampling, StridedFollowsTheFormula) {
  const CounterRng rng({1});
  EXPECT_EQ(sampled_positions(QuerySampling::strided, 1, 9, rng), (Layers{8}));
  EXPECT_EQ(sampled_positions(QuerySampling::strided, 2, 9, rng), (Layers{0, 8}));
  EXPECT_EQ(sampled_positions(QuerySampling::strided, 4, 9, rng), (Layers{0, 3, 5, 8}));
  EXPECT_EQ(sampled_positions(QuerySampling::strided, 3, 10, rng), (Layers{0, 5, 9}));  // 4.5 rounds up
  EXPECT_EQ(sampled_positions(QuerySampling::strided, 100, 4, rng), (Layers{0, 1, 2, 3}));
  EXPECT_EQ(sampled_positions(QuerySampling::recent, 3, 9, rng), (Layers{6, 7, 8}));
  EXPECT_EQ(sampled_positions(QuerySampling::random, 3, 9, rng), rng.sample(9, 3));
}

TEST(SequenceLayout, ListsTheSequences) {
  const SequenceLayout layout{{{0, 3}, {0}}, {100, 200}};
  const std::vector<SequenceSpan> spans = sequences(layout, 5);
  ASSERT_EQ(spans.size(), 3);
  EXPECT_EQ(spans[1].begin, 3);
  EXPECT_EQ(spans[1].length, 2);
  EXPECT_EQ(spans[1].number, 103);
  EXPECT_EQ(spans[2].row, 1);
  EXPECT_EQ(spans[2].length, 5);
  const SequenceLayout whole = SequenceLayout::whole_rows(2, 5);
  EXPECT_EQ(whole.first_token, (Layers{0, 5}));
  EXPECT_NO_THROW(whole.check(2, 5));
}

int64_t oracle_pairs(const AttentionConfig& config, int64_t length) {
  const std::vector<at::Tensor> in = random_heads({1, length, 1, 1, 4});
  return oracle_attention(in[0], in[1], in[2], SequenceLayout::whole_rows(1, length), config, 0, 5).pairs;
}

TEST(VisiblePairs, AreExactWhereTheyDoNotDependOnData) {
  at::manual_seed(1);
  for (const int64_t length : {1, 2, 17, 64, 130}) {
    EXPECT_EQ(visible_pairs(AttentionConfig{}, AttentionKind::full, length), oracle_pairs(AttentionConfig{}, length));
    for (const int64_t window : {1, 9, 64, 200}) {
      const AttentionConfig config = window_config(AttentionKind::streaming, 4, window);
      EXPECT_EQ(visible_pairs(config, AttentionKind::streaming, length), oracle_pairs(config, length));
    }
    for (const int64_t members : {1, 3, 16}) {
      AttentionConfig config = dga_config(Selection::causal);
      config.group_size = members;
      for (const auto& [block, local] :
           std::vector<std::pair<int64_t, int64_t>>{{1, 0}, {1, 4}, {7, 0}, {7, 2}, {16, 1}, {200, 3}}) {
        config.block_size = block;
        config.local_blocks = local;
        EXPECT_EQ(visible_pairs(config, AttentionKind::dga, length), oracle_pairs(config, length)) << describe(config);
      }
      for (const int64_t window : {0, 5, 1000}) {
        for (const bool complementary : {true, false}) {
          AttentionConfig none = dga_config(Selection::none);
          none.group_size = members;
          none.local_window = window;
          none.complementary = complementary;
          EXPECT_EQ(visible_pairs(none, AttentionKind::dga, length), oracle_pairs(none, length)) << describe(none);
        }
      }
    }
  }
}

TEST(VisiblePairs, StayWithinTheStatedBoundUnderGlobalAndRandom) {
  at::manual_seed(2);
  for (const Selection selection : {Selection::global, Selection::random}) {
    for (const int64_t length : {17, 130, 257}) {
      for (const int64_t window : {0, 20}) {
        AttentionConfig config = dga_config(selection);
        config.group_size = 8;
        config.local_window = window;
        const double focal = std::ceil(0.1 * static_cast<double>(length));
        const double groups = std::floor((static_cast<double>(length) - focal) / 8);
        const double actual = static_cast<double>(oracle_pairs(config, length));
        const double expected = visible_pairs(config, AttentionKind::dga, length);
        EXPECT_LE(std::abs(actual - expected), 7 * focal * groups) << describe(config);
        // Scattered focal tokens lie near an even spread, so the count is far better than its bound.
        if (selection == Selection::random && length > 100) {
          EXPECT_LE(std::abs(actual / expected - 1), 0.05) << describe(config);
        }
      }
    }
  }
}

TEST(VisiblePairs, AgreeWithTheSummaryOfTheMethod) {
  AttentionConfig config = dga_config(Selection::global);
  config.local_window = 0;
  const double length = 131072, dense = length * length / 2;
  EXPECT_NEAR(visible_pairs(config, AttentionKind::dga, 131072) / dense, 0.15625, 0.001);
}

}  // namespace
}  // namespace dga::testing

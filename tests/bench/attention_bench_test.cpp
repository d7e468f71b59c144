#include "bench/attention_bench.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace dga {
namespace {

AttentionBenchCase small_case(AttentionKind kind) {
  AttentionBenchCase c;
  c.attention.kind = kind;
  c.attention.focal_ratio = 0.25;
  c.attention.group_size = 3;
  c.attention.local_window = 0;
  c.attention.sampled_queries = 2;
  c.seq_len = 8;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 10;
  return c;
}

TEST(AttentionWork, OfFullAttentionIsItsPairs) {
  const AttentionWork work = count_work(small_case(AttentionKind::full), 36 * 4);
  EXPECT_EQ(work.forward_flops, 4 * 10 * 36 * 4);  // 36 pairs in each of 4 heads
  EXPECT_EQ(work.backward_flops, 10 * 10 * 36 * 4);
  EXPECT_EQ(work.importance_flops, 0);
  EXPECT_EQ(work.pooling_bytes, 0);
}

TEST(AttentionWork, OfDgaCountsScoresAndLists) {
  const AttentionWork work = count_work(small_case(AttentionKind::dga), 100);
  EXPECT_EQ(work.forward_flops, 4 * 10 * 100);
  // The queries 0 and 7 see 1 and 8 keys; two passes of 2 D FLOP over 4 heads.
  EXPECT_EQ(work.importance_flops, 2 * 2 * 10 * 9 * 4);
  // 2 focal tokens and 2 groups of 3: lists of 4 and 6 entries. A key and a value of 2 heads are 80 bytes; forward
  // reads 8 tokens and writes the lists, backward reads 8 tokens and the lists' gradients and writes those of 8 tokens.
  EXPECT_EQ(work.pooling_bytes, 80 * ((8 + 10) + (16 + 10)));
}

TEST(AttentionWork, OfTheCausalRuleScoresBlocksOnce) {
  AttentionBenchCase c = small_case(AttentionKind::dga);
  c.attention.selection = Selection::causal;
  c.attention.block_size = 2;
  c.attention.local_blocks = 1;
  // Blocks 0 and 1 of four are divided; each is scored by its own 3 pairs and the 4 of the next block.
  EXPECT_EQ(count_work(c, 0).importance_flops, 2 * 10 * (2 * 7) * 4);
}

TEST(AttentionBench, LimitAddsProductsAndCopies) {
  EXPECT_DOUBLE_EQ(limit_ms({.forward_flops = 4, .backward_flops = 10, .importance_flops = 6, .pooling_bytes = 30},
                            {.product_flops = 10, .copy_bytes = 15}),
                   4000);
}

AttentionBenchRow measured_row() {
  AttentionBenchRow row;
  row.of = small_case(AttentionKind::dga);
  row.work = count_work(row.of, 100);
  row.stages_ms = {{"importance", 0.5}, {"attention", 2.0}, {"attention_backward", 4.0}};
  row.forward_ms = 3;
  row.backward_ms = 5;
  row.peer_forward_ms = 10;
  row.peer_backward_ms = 30;
  row.rates = {1e12, 1e12};
  row.card = "a card";
  return row;
}

TEST(AttentionBench, JsonHasTheFieldsOfARow) {
  AttentionBenchRow row = measured_row();
  const nlohmann::json list = nlohmann::json::parse(attention_bench_json({row}, "abc"));
  ASSERT_EQ(list.size(), 1u);
  const nlohmann::json expected = {{"kind", "dga"},
                                   {"batch", 1},
                                   {"seq_len", 8},
                                   {"heads", 4},
                                   {"kv_heads", 2},
                                   {"head_dim", 10},
                                   {"dtype", "bf16"},
                                   {"group_size", 3},
                                   {"focal_ratio", 0.25},
                                   {"local_window", 0},
                                   {"sampled_queries", 2},
                                   {"selection", "global"},
                                   {"forward_ms", 3.0},
                                   {"backward_ms", 5.0},
                                   {"total_ms", 8.0},
                                   {"peer_forward_ms", 10.0},
                                   {"peer_backward_ms", 30.0},
                                   {"card", "a card"},
                                   {"commit", "abc"}};
  for (const auto& [name, value] : expected.items()) EXPECT_EQ(list[0][name], value) << name;
  EXPECT_EQ(list[0]["stages"]["importance"], 0.5);
  EXPECT_DOUBLE_EQ(list[0]["forward_tflops"], row.work.forward_flops / 2.0 / 1e9);

  row.peer_backward_ms.reset();  // cuDNN refused the shape
  EXPECT_TRUE(nlohmann::json::parse(attention_bench_json({row}, "abc"))[0]["peer_backward_ms"].is_null());
}

TEST(AttentionBench, TableComparesWithThePeer) {
  const std::string table = attention_bench_table({measured_row()});
  EXPECT_NE(table.find("| 3.000 | 5.000 | 8.000 | 10.000 / 30.000 | 5.00 |"), std::string::npos) << table;
  EXPECT_NE(table.find("importance 0.500; attention 2.000; attention_backward 4.000"), std::string::npos) << table;
}

}  // namespace
}  // namespace dga

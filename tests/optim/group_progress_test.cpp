#include "optim/group_progress.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "util/error.h"

namespace dga {
namespace {

/// Numbers: embedding 1024, then two layers of a norm 256, a matrix 512 and one of 2048, a norm 256, the head 1024.
std::vector<TrainedParameter> parameters() {
  return {{"model.embed_tokens.weight", at::zeros({4, 256})},
          {"model.layers.0.input_layernorm.weight", at::zeros({256})},
          {"model.layers.0.self_attn.q_proj.weight", at::zeros({2, 256})},
          {"model.layers.0.mlp.up_proj.weight", at::zeros({8, 256})},
          {"model.layers.1.input_layernorm.weight", at::zeros({256})},
          {"model.layers.1.self_attn.q_proj.weight", at::zeros({2, 256})},
          {"model.layers.1.mlp.up_proj.weight", at::zeros({8, 256})},
          {"model.norm.weight", at::zeros({256})},
          {"lm_head.weight", at::zeros({4, 256})}};
}

TEST(FlatGroups, HoldWholeParametersAndEndAtMultiplesOfTheRanks) {
  const FlatLayout layout(OptimizerConfig(), parameters(), {.ranks = 3, .bucket_numbers = 1200});
  // From the end of the decayed ones: the head; layer 1's up alone; its q; layer 0's up; its q. Then norms, embedding.
  std::vector<std::vector<size_t>> slots;
  int64_t end = 0, first = 0;
  for (const FlatGroup& group : layout.groups) {
    slots.push_back(group.slots);
    EXPECT_EQ(group.numbers.begin, end);
    EXPECT_EQ(group.numbers.size() % (3 * 256), 0);
    EXPECT_EQ(group.first, first);
    EXPECT_EQ(group.buckets.front().begin, group.numbers.begin);
    for (size_t i = 0; i < group.buckets.size(); ++i) {
      EXPECT_EQ(group.buckets[i].size() % (3 * 256), 0);
      EXPECT_EQ(group.buckets[i].end, i + 1 < group.buckets.size() ? group.buckets[i + 1].begin : group.numbers.end);
    }
    for (const size_t slot : group.slots) first += layout.slots[slot].count;
    end = group.numbers.end;
  }
  EXPECT_EQ(slots, (std::vector<std::vector<size_t>>{{2}, {3}, {5}, {6}, {8}, {0}, {1, 4, 7}}));
  EXPECT_EQ(end, layout.size);
  EXPECT_EQ(layout.groups[1].buckets.size(), 2U);  // 2304 numbers in buckets of 1536
  EXPECT_EQ(layout.groups[0].buckets.size(), 1U);
  EXPECT_EQ(layout.decayed_end, layout.groups[4].numbers.end);
}

TEST(FlatGroups, OneRankHasNoPaddingAndTwoGroups) {
  const FlatLayout layout(OptimizerConfig(), parameters());
  EXPECT_EQ(layout.groups.size(), 2U);
  EXPECT_EQ(layout.size, 2 * 1024 + 3 * 256 + 2 * 512 + 2 * 2048);
}

TEST(GroupProgress, HandsOutCompleteGroupsFromTheLastParameterToTheFirst) {
  const FlatLayout layout(OptimizerConfig(), parameters(), {.ranks = 2, .bucket_numbers = 1200});
  GroupProgress progress(layout);
  std::vector<size_t> taken;
  const auto complete = [&](size_t slot) {
    progress.complete(slot);
    while (const auto group = progress.take_complete()) taken.push_back(layout.groups[*group].slots.front());
    return taken;
  };
  using Slots = std::vector<size_t>;
  EXPECT_EQ(complete(7), Slots{});   // the last norm, whose group is large
  EXPECT_EQ(complete(8), Slots{8});  // the head waits for no norm and no embedding
  EXPECT_EQ(complete(5), Slots{8});  // q of layer 1 waits for what lies behind it
  EXPECT_EQ(complete(6), (Slots{8, 6, 5}));
  EXPECT_EQ(complete(4), (Slots{8, 6, 5}));
  EXPECT_EQ(complete(3), (Slots{8, 6, 5, 3}));
  EXPECT_EQ(complete(2), (Slots{8, 6, 5, 3, 2}));
  EXPECT_EQ(complete(1), (Slots{8, 6, 5, 3, 2, 1}));  // all norms
  EXPECT_FALSE(progress.was_taken(5));
  EXPECT_EQ(complete(0), (Slots{8, 6, 5, 3, 2, 1, 0}));
  EXPECT_FALSE(progress.take_left());
  EXPECT_THROW(progress.complete(0), Error);

  progress.restart();
  progress.complete(8);
  EXPECT_TRUE(progress.take_complete());
  EXPECT_FALSE(progress.take_complete());
  int left = 0;
  while (progress.take_left()) ++left;
  EXPECT_EQ(left, 6);
  EXPECT_THROW(progress.complete(3), Error);  // after it was taken
}

}  // namespace
}  // namespace dga

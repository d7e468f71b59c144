#include "kernels/grouping/segments.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

namespace dga::kernels {
namespace {

int64_t sum_of(const SegmentPlan& plan, int32_t row, int32_t Segment::*member) {
  int64_t sum = 0;
  for (int32_t s = plan.row_begins[row]; s < plan.row_begins[row + 1]; ++s) sum += plan.segments[s].*member;
  return sum;
}

TEST(Segments, SequencesLieEndToEndInBothLists) {
  GroupingSettings settings;
  settings.focal_ratio = 0.1;
  settings.group_size = 16;
  const SegmentPlan plan = plan_segments({{0, 1, 100}, {0}}, 1000, settings);
  ASSERT_EQ(plan.segments.size(), 4u);
  ASSERT_EQ(plan.row_begins, (std::vector<int32_t>{0, 3, 4}));
  // Lengths 1, 99, 900: focal 1, 10, 90; others 0, 89, 810; groups 0, 5, 50.
  const int32_t expected[4][6] = {
      {0, 1, 1, 0, 0, 0}, {1, 99, 10, 5, 1, 0}, {100, 900, 90, 50, 16, 89}, {0, 1000, 100, 56, 0, 0}};
  for (int i = 0; i < 4; ++i) {
    const Segment& s = plan.segments[i];
    EXPECT_EQ(s.token_begin, expected[i][0]) << i;
    EXPECT_EQ(s.length, expected[i][1]) << i;
    EXPECT_EQ(s.focal_count, expected[i][2]) << i;
    EXPECT_EQ(s.group_count, expected[i][3]) << i;
    EXPECT_EQ(s.compact_begin, expected[i][4]) << i;
    EXPECT_EQ(s.second_begin, expected[i][5]) << i;
  }
  EXPECT_EQ(plan.segments[2].focal_before, 11);
  EXPECT_EQ(plan.compact_length, 156);
  EXPECT_EQ(plan.second_length, 900);
  EXPECT_EQ(plan.longest_segment, 1000);
  // Units: 1 focal; 5 groups, 1 rest, 1 focal; 50, 1, 6; 56, 1, 7.
  EXPECT_EQ(plan.segments[1].unit_begin, 1);
  EXPECT_EQ(plan.segments[2].unit_begin, 8);
  EXPECT_EQ(plan.segments[3].unit_begin, 65);
  EXPECT_EQ(plan.unit_count, 129);
}

TEST(Segments, BlocksAreDividedWhereSomeQuerySeesTheirEntries) {
  GroupingSettings settings;
  settings.rule = GroupingRule::block;
  settings.focal_ratio = 0.1;
  settings.group_size = 16;
  settings.block_size = 32;
  settings.local_blocks = 1;
  // A sequence of 100 and one of 64 tokens: blocks of 32, 32, 32, 4 and 32, 32. Focal 4, groups ceil(28 / 16) = 2.
  const SegmentPlan plan = plan_segments({{0, 100}}, 164, settings);
  ASSERT_EQ(plan.segments.size(), 6u);
  const int32_t focal[6] = {4, 4, 0, 0, 0, 0}, first_end[6] = {0, 0, 6, 12, 12, 12};
  const int32_t first_begin[6] = {0, 0, 0, 0, 12, 12}, second_begin[6] = {0, 0, 32, 64, 100, 100};
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(plan.segments[i].focal_count, focal[i]) << i;
    EXPECT_EQ(plan.segments[i].group_count, focal[i] / 2) << i;
    EXPECT_EQ(plan.segments[i].first_begin, first_begin[i]) << i;
    EXPECT_EQ(plan.segments[i].first_end, first_end[i]) << i;
    EXPECT_EQ(plan.segments[i].second_begin, second_begin[i]) << i;
  }
  EXPECT_EQ(plan.compact_length, 12);
  EXPECT_EQ(plan.second_length, 164);
  EXPECT_EQ(plan.unit_count, 6);
}

TEST(Segments, CountsAddUpForEveryLength) {
  for (const GroupingRule rule : {GroupingRule::sequence, GroupingRule::block}) {
    for (const double ratio : {0.0, 0.1, 0.3, 1.0}) {
      for (const int64_t group_size : {1, 16, 100}) {
        for (int64_t length = 1; length < 400; length += 7) {
          GroupingSettings settings;
          settings.rule = rule;
          settings.focal_ratio = ratio;
          settings.group_size = group_size;
          settings.block_size = 20;
          const SegmentPlan plan = plan_segments({{0}}, length, settings);
          EXPECT_EQ(sum_of(plan, 0, &Segment::length), length);
          EXPECT_EQ(plan.compact_length,
                    sum_of(plan, 0, &Segment::focal_count) + sum_of(plan, 0, &Segment::group_count));
          if (rule == GroupingRule::block) {
            const int64_t divided = std::max<int64_t>(0, (length - 1) / 20 - 2);
            EXPECT_EQ(sum_of(plan, 0, &Segment::focal_count), divided * std::ceil(ratio * 20)) << length;
          } else {
            EXPECT_EQ(plan.second_length, length - std::ceil(ratio * static_cast<double>(length)));
          }
        }
      }
    }
  }
}

TEST(Segments, HugeWindowAndGroupStayWithin32Bits) {
  GroupingSettings settings;
  settings.local_window = int64_t{1} << 50;
  settings.group_size = int64_t{1} << 50;
  const SegmentPlan plan = plan_segments({{0}}, 1000, settings);
  EXPECT_EQ(plan.segments[0].group_count, 0);
  const SegmentTable table = table_at(plan, nullptr);
  EXPECT_GE(table.local_window, 1000);
  EXPECT_GE(table.group_size, 1000);
  EXPECT_GT(table.local_window + 1000, 0);
}

TEST(Segments, RefusesStartsThatAreNone) {
  EXPECT_THROW(plan_segments({{1}}, 10, {}), std::invalid_argument);
  EXPECT_THROW(plan_segments({{}}, 10, {}), std::invalid_argument);
  EXPECT_THROW(plan_segments({{0, 5, 5}}, 10, {}), std::invalid_argument);
  EXPECT_THROW(plan_segments({{0, 10}}, 10, {}), std::invalid_argument);
  EXPECT_THROW(plan_segments({{0}}, 0, {}), std::invalid_argument);
  GroupingSettings settings;
  settings.focal_ratio = 1.5;
  EXPECT_THROW(plan_segments({{0}}, 10, settings), std::invalid_argument);
}

}  // namespace
}  // namespace dga::kernels

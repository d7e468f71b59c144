#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// The counts of DGA's lists depend on lengths only, so the host lays both lists out before the GPU has chosen anything.
// Every token of a batch lies in one segment: a sequence (rule `sequence`: selections global, random and none), or a
// block of a sequence (rule `block`: selection causal). docs/method.md has the rules; m is the group size, w the local
// window, B the block size, n the number of local blocks.
namespace dga::kernels {

enum class GroupingRule : int32_t { sequence, block };

struct GroupingSettings {
  GroupingRule rule = GroupingRule::sequence;
  double focal_ratio = 0.1;  // 0 where every token is non-focal
  int64_t group_size = 16;
  int64_t local_window = 0;   // rule sequence
  bool complementary = true;  // rule sequence; false: of the non-focal tokens a query sees itself alone
  int64_t block_size = 256;   // rule block
  int64_t local_blocks = 2;   // rule block
};

struct Segment {
  int32_t row;
  int32_t token_begin;    // position in the row
  int32_t length;         // tokens
  int32_t focal_count;    // ceil(focal_ratio * length); 0 in a block that is never divided
  int32_t group_count;    // 0 in a block that is never divided
  int32_t focal_before;   // focal tokens of the row before this segment
  int32_t compact_begin;  // its first entry in the row's compact list
  int32_t second_begin;   // rule sequence: its first entry in the row's second list; rule block: the first token that
                          // its queries see one by one
  int32_t first_begin;    // compact entries from here on are of the query's own sequence
  int32_t first_end;      // rule block: end of the compact entries that its queries see
  int32_t unit_begin;     // units of work (kernels/grouping/segments.cuh) before it in the batch
};

/// Tokens that a unit of work copies at most, and members of a group read at a time.
constexpr int kUnitTokens = 16;

struct SegmentPlan {
  GroupingSettings settings;
  int64_t rows = 0;
  int64_t length = 0;               // of a row, tokens
  std::vector<Segment> segments;    // in order of row and position
  std::vector<int32_t> row_begins;  // [rows + 1], first segment of each row
  int64_t compact_length = 0;       // entries of the longest row's compact list
  int64_t second_length = 0;        // entries of the longest row's second list; the row's length under rule block
  int64_t longest_segment = 0;      // tokens
  int64_t unit_count = 0;
};

/// Lays out rows of `length` tokens whose sequences start at `starts` (per row, increasing, the first is 0). Throws
/// std::invalid_argument where the starts or the settings are none, or where a count passes 32 bits. Under rule block
/// a block is divided where some query sees its entries: block c of a sequence of T tokens if (c + n + 1) B < T.
SegmentPlan plan_segments(const std::vector<std::vector<int64_t>>& starts, int64_t length,
                          const GroupingSettings& settings);

/// A plan as the kernels see it: pointers into device memory, settings cut down to what can differ within 32 bits.
struct SegmentTable {
  const Segment* segments = nullptr;    // [segment_count]
  const int32_t* row_begins = nullptr;  // [rows + 1]
  int32_t segment_count = 0;
  int32_t unit_count = 0;
  int32_t longest_segment = 0;
  GroupingRule rule = GroupingRule::sequence;
  int32_t group_size = 0;
  int32_t local_window = 0;
  int32_t complementary = 1;
};

/// Bytes of a plan's table in device memory.
size_t table_bytes(const SegmentPlan& plan);

/// Writes the table to host memory, for one copy to the device.
void write_table(const SegmentPlan& plan, void* destination);

/// The table whose bytes lie at `device`, aligned to 16 bytes.
SegmentTable table_at(const SegmentPlan& plan, const void* device);

}  // namespace dga::kernels

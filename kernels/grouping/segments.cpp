#include "kernels/grouping/segments.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>
#include <stdexcept>

namespace dga::kernels {
namespace {

// Sums of a position and a window, or of a position and a group size, stay within 32 bits.
constexpr int64_t kLargestLength = int64_t{1} << 29;

template <typename... Parts>
void check(bool ok, const Parts&... parts) {
  if (ok) return;
  std::ostringstream message;
  message << "plan_segments: ";
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

void check_settings(const GroupingSettings& settings) {
  check(settings.focal_ratio >= 0 && settings.focal_ratio <= 1, "focal_ratio must be in [0, 1], got ",
        settings.focal_ratio);
  check(settings.group_size >= 1, "group_size must be at least 1, got ", settings.group_size);
  check(settings.local_window >= 0, "local_window must not be negative, got ", settings.local_window);
  if (settings.rule == GroupingRule::sequence) return;
  check(settings.block_size >= 1, "block_size must be at least 1, got ", settings.block_size);
  check(settings.local_blocks >= 0, "local_blocks must not be negative, got ", settings.local_blocks);
}

int64_t focal_count(double ratio, int64_t length) {
  return static_cast<int64_t>(std::ceil(ratio * static_cast<double>(length)));
}

int64_t units_of(int64_t tokens) { return (tokens + kUnitTokens - 1) / kUnitTokens; }

// What has been laid out of the current row.
struct RowCursor {
  int64_t row = 0, focal = 0, compact = 0, second = 0;
};

class Planner {
 public:
  explicit Planner(SegmentPlan& plan) : plan_(plan), settings_(plan.settings) {}

  void begin_row() {
    plan_.row_begins.push_back(static_cast<int32_t>(plan_.segments.size()));
    at_ = {static_cast<int64_t>(plan_.row_begins.size()) - 1, 0, 0, 0};
  }

  void end_row() {
    plan_.compact_length = std::max(plan_.compact_length, at_.compact);
    plan_.second_length =
        std::max(plan_.second_length, settings_.rule == GroupingRule::block ? plan_.length : at_.second);
  }

  void add_sequence(int64_t begin, int64_t length) {
    if (settings_.rule == GroupingRule::block) return add_blocks(begin, length);
    const int64_t focal = focal_count(settings_.focal_ratio, length), others = length - focal;
    const int64_t groups = others / settings_.group_size;
    Segment segment = add(begin, length, focal, groups, at_.compact);
    segment.second_begin = static_cast<int32_t>(at_.second);
    at_.second += others;
    plan_.unit_count += groups + units_of(others - groups * settings_.group_size) + units_of(focal);
    plan_.segments.push_back(segment);
  }

 private:
  void add_blocks(int64_t begin, int64_t length) {
    const int64_t block = settings_.block_size, first_entry = at_.compact;
    const int64_t local = std::min(settings_.local_blocks, length);
    const int64_t focal = focal_count(settings_.focal_ratio, block);
    const int64_t groups = (block - focal + settings_.group_size - 1) / settings_.group_size;
    for (int64_t b = 0; b * block < length; ++b) {
      const bool divided = b + local + 1 <= (length - 1) / block;
      const int64_t visible = std::max<int64_t>(b - local, 0);  // divided blocks that its queries see
      Segment segment = add(begin + b * block, std::min(block, length - b * block), divided ? focal : 0,
                            divided ? groups : 0, first_entry);
      segment.second_begin = static_cast<int32_t>(begin + visible * block);
      segment.first_end = static_cast<int32_t>(first_entry + visible * (focal + groups));
      if (divided) plan_.unit_count += groups + units_of(focal);
      plan_.segments.push_back(segment);
    }
  }

  Segment add(int64_t begin, int64_t length, int64_t focal, int64_t groups, int64_t first_entry) {
    Segment segment{};
    segment.row = static_cast<int32_t>(at_.row);
    segment.token_begin = static_cast<int32_t>(begin);
    segment.length = static_cast<int32_t>(length);
    segment.focal_count = static_cast<int32_t>(focal);
    segment.group_count = static_cast<int32_t>(groups);
    segment.focal_before = static_cast<int32_t>(at_.focal);
    segment.compact_begin = static_cast<int32_t>(at_.compact);
    segment.first_begin = static_cast<int32_t>(first_entry);
    segment.unit_begin = static_cast<int32_t>(plan_.unit_count);
    at_.focal += focal;
    at_.compact += focal + groups;
    plan_.longest_segment = std::max(plan_.longest_segment, length);
    return segment;
  }

  SegmentPlan& plan_;
  const GroupingSettings& settings_;
  RowCursor at_;
};

size_t row_bytes(const SegmentPlan& plan) { return (plan.row_begins.size() * sizeof(int32_t) + 15) / 16 * 16; }

}  // namespace

SegmentPlan plan_segments(const std::vector<std::vector<int64_t>>& starts, int64_t length,
                          const GroupingSettings& settings) {
  check_settings(settings);
  check(length >= 1 && length <= kLargestLength, "length must be in [1, ", kLargestLength, "], got ", length);
  check(static_cast<int64_t>(starts.size()) <= std::numeric_limits<int32_t>::max() / length,
        "rows * length must fit 32 bits, got ", starts.size(), " * ", length);
  SegmentPlan plan;
  plan.settings = settings;
  plan.rows = static_cast<int64_t>(starts.size());
  plan.length = length;
  Planner planner(plan);
  for (size_t row = 0; row < starts.size(); ++row) {
    const std::vector<int64_t>& row_starts = starts[row];
    check(!row_starts.empty() && row_starts.front() == 0, "row ", row, " must have a sequence that starts at 0");
    planner.begin_row();
    for (size_t i = 0; i < row_starts.size(); ++i) {
      const int64_t end = i + 1 < row_starts.size() ? row_starts[i + 1] : length;
      check(end > row_starts[i] && end <= length, "row ", row, ": the sequence that starts at ", row_starts[i],
            " must end after it and within ", length, " tokens, not at ", end);
      planner.add_sequence(row_starts[i], end - row_starts[i]);
    }
    planner.end_row();
  }
  plan.row_begins.push_back(static_cast<int32_t>(plan.segments.size()));
  return plan;
}

size_t table_bytes(const SegmentPlan& plan) { return row_bytes(plan) + plan.segments.size() * sizeof(Segment); }

void write_table(const SegmentPlan& plan, void* destination) {
  std::memcpy(destination, plan.row_begins.data(), plan.row_begins.size() * sizeof(int32_t));
  std::memcpy(static_cast<char*>(destination) + row_bytes(plan), plan.segments.data(),
              plan.segments.size() * sizeof(Segment));
}

SegmentTable table_at(const SegmentPlan& plan, const void* device) {
  SegmentTable table;
  table.row_begins = static_cast<const int32_t*>(device);
  table.segments = reinterpret_cast<const Segment*>(static_cast<const char*>(device) + row_bytes(plan));
  table.segment_count = static_cast<int32_t>(plan.segments.size());
  table.unit_count = static_cast<int32_t>(plan.unit_count);
  table.longest_segment = static_cast<int32_t>(plan.longest_segment);
  table.rule = plan.settings.rule;
  table.group_size = static_cast<int32_t>(std::min(plan.settings.group_size, kLargestLength));
  table.local_window = static_cast<int32_t>(std::min(plan.settings.local_window, kLargestLength));
  table.complementary = plan.settings.complementary ? 1 : 0;
  return table;
}

}  // namespace dga::kernels

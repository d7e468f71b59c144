#include "attention/sequence_layout.h"

#include "util/error.h"

namespace dga {

SequenceLayout SequenceLayout::whole_rows(int64_t rows, int64_t length) {
  SequenceLayout layout;
  for (int64_t row = 0; row < rows; ++row) {
    layout.starts.push_back({0});
    layout.first_token.push_back(row * length);
  }
  return layout;
}

void SequenceLayout::check(int64_t rows, int64_t length) const {
  DGA_CHECK(static_cast<int64_t>(starts.size()) == rows && static_cast<int64_t>(first_token.size()) == rows,
            "sequence layout: ", starts.size(), " lists of starts and ", first_token.size(), " first tokens for ", rows,
            " rows");
  for (size_t row = 0; row < starts.size(); ++row) {
    DGA_CHECK(!starts[row].empty() && starts[row].front() == 0, "sequence layout: row ", row,
              " must have a sequence at position 0");
    for (size_t i = 0; i < starts[row].size(); ++i) {
      DGA_CHECK(starts[row][i] < length && (i == 0 || starts[row][i] > starts[row][i - 1]), "sequence layout: row ",
                row, ", start ", i, " is ", starts[row][i], "; starts must increase and stay below ", length);
    }
  }
}

std::vector<SequenceSpan> sequences(const SequenceLayout& layout, int64_t length) {
  std::vector<SequenceSpan> spans;
  for (size_t row = 0; row < layout.starts.size(); ++row) {
    const std::vector<int64_t>& starts = layout.starts[row];
    for (size_t i = 0; i < starts.size(); ++i) {
      const int64_t end = i + 1 < starts.size() ? starts[i + 1] : length;
      spans.push_back({static_cast<int64_t>(row), starts[i], end - starts[i], layout.first_token[row] + starts[i]});
    }
  }
  return spans;
}

}  // namespace dga

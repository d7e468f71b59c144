#pragma once

#include <cstdint>
#include <vector>

namespace dga {

/// How the rows of a [B, L] batch divide into sequences that do not attend to each other.
struct SequenceLayout {
  std::vector<std::vector<int64_t>> starts;          // per row: where a sequence starts, increasing, the first is 0
  std::vector<int64_t> first_token;                  // per row: number of its first token in the data order
  std::vector<std::vector<int64_t>> positions = {};  // per row: RoPE position of each token; none: they count from each
                                                     // start

  /// Every row is one sequence; row i follows row i - 1 in the data order.
  static SequenceLayout whole_rows(int64_t rows, int64_t length);

  /// Throws unless there are `rows` rows whose starts are increasing positions below `length`, beginning at 0.
  void check(int64_t rows, int64_t length) const;
};

/// One sequence of a layout.
struct SequenceSpan {
  int64_t row = 0;
  int64_t begin = 0;   // position in the row
  int64_t length = 0;  // tokens
  int64_t number = 0;  // first_token of the row + begin; identifies the sequence in the data order
};

/// The sequences of `layout` in order of row and position; together they cover every token of [rows, length].
std::vector<SequenceSpan> sequences(const SequenceLayout& layout, int64_t length);

}  // namespace dga

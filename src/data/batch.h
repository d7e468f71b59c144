#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dga {

/// The label of a position that does not count.
constexpr int32_t kIgnoreLabel = -100;

/// Where a stretch of a row came from, for messages.
struct DocumentRef {
  int64_t row = 0;    // of the batch
  int64_t start = 0;  // position in the row
  std::string source;
  std::string file;
  int64_t line_or_index = 0;  // line of a text file from 1, or number of the document in a token bin from 0
};

/// A contiguous set of rows of the global batch, in host memory. The documents of the mix, each [BOS] tokens [EOS],
/// form one stream; row i of the data order is stream[i*L, (i+1)*L) and its labels are stream[i*L + 1, (i+1)*L + 1).
struct Batch {
  int64_t rows = 0;                          // B
  int64_t context_length = 0;                // L
  std::vector<int32_t> tokens;               // [B, L]
  std::vector<int32_t> labels;               // [B, L]; kIgnoreLabel: no label
  std::vector<std::vector<int64_t>> starts;  // per row, increasing, first is 0: where documents start (or go on, at 0)
  std::vector<int64_t> row_numbers;          // [B] position of each row in the data order, from 0
  std::vector<DocumentRef> documents;        // one for each entry of `starts`, row by row
};

}  // namespace dga

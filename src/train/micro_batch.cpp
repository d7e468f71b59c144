#include "train/micro_batch.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "tensor/device.h"
#include "util/error.h"

namespace dga {
namespace {

/// Elements [first, first + count) as int64 on the device.
at::Tensor to_tensor(const std::vector<int32_t>& values, int64_t first, int64_t count, at::Device device) {
  const at::Tensor staged = staging_tensor({count}, device);
  std::copy_n(values.begin() + first, count, staged.mutable_data_ptr<int64_t>());
  return send(staged, device);
}

}  // namespace

MicroBatch make_micro_batch(const Batch& batch, int64_t first_row, int64_t rows, RowSplit split, at::Device device) {
  const int64_t length = batch.context_length;
  MicroBatch part;
  part.first_row = first_row;
  part.rows = rows;
  part.tokens = to_tensor(batch.tokens, first_row * length, rows * length, device).view({rows, length});
  part.labels = to_tensor(batch.labels, first_row * length, rows * length, device);
  for (int64_t row = first_row; row < first_row + rows; ++row) {
    part.layout.starts.push_back(split == RowSplit::documents ? batch.starts[row] : std::vector<int64_t>{0});
    part.layout.first_token.push_back(batch.row_numbers[row] * length);
  }
  return part;
}

int64_t label_count(const Batch& batch) {
  return std::ranges::count_if(batch.labels, [](int32_t label) { return label != kIgnoreLabel; });
}

std::string describe_documents(const Batch& batch, int64_t first_row, int64_t rows, size_t limit) {
  std::string text;
  size_t named = 0, left_out = 0;
  for (const DocumentRef& document : batch.documents) {
    if (document.row < first_row || document.row >= first_row + rows) continue;
    if (named == limit) {
      ++left_out;
      continue;
    }
    ++named;
    text += str(text.empty() ? "" : ", ", document.source, ": ", document.file, ":", document.line_or_index);
  }
  if (left_out > 0) text += str(" and ", left_out, " more");
  return text;
}

}  // namespace dga

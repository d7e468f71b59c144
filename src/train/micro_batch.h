#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "attention/sequence_layout.h"
#include "data/batch.h"

namespace dga {

/// Rows that go through the model together. b rows, L tokens a row.
struct MicroBatch {
  at::Tensor tokens;  // [b, L] int64 on the model's device
  at::Tensor labels;  // [b * L] int64 on the model's device
  SequenceLayout layout;
  int64_t first_row = 0;  // of the batch
  int64_t rows = 0;
};

/// How attention sees the rows of a batch.
enum class RowSplit { whole_rows, documents };

/// Rows [first_row, first_row + rows) of a batch.
MicroBatch make_micro_batch(const Batch& batch, int64_t first_row, int64_t rows, RowSplit split, at::Device device);

/// Positions of the batch that have a label.
int64_t label_count(const Batch& batch);

/// Names the documents in rows [first_row, first_row + rows), at most `limit` of them: "source: file:line, ...".
std::string describe_documents(const Batch& batch, int64_t first_row, int64_t rows, size_t limit = 8);

}  // namespace dga

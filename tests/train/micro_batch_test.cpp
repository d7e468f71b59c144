#include "train/micro_batch.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace dga {
namespace {

/// Three rows of four tokens; a document starts inside rows 0 and 2.
Batch example() {
  Batch batch;
  batch.rows = 3;
  batch.context_length = 4;
  batch.tokens = {0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23};
  batch.labels = {1, 2, 3, 10, 11, 12, 13, 20, 21, -100, 23, 30};
  batch.starts = {{0, 3}, {0}, {0, 2}};
  batch.row_numbers = {6, 7, 8};
  batch.documents = {{0, 0, "web", "a.jsonl", 5},
                     {0, 3, "web", "a.jsonl", 6},
                     {1, 0, "web", "a.jsonl", 6},
                     {2, 0, "web", "a.jsonl", 6},
                     {2, 2, "code", "b.u16", 0}};
  return batch;
}

TEST(MicroBatch, TakesItsRows) {
  const MicroBatch part = make_micro_batch(example(), 1, 2, RowSplit::documents, at::kCPU);
  EXPECT_TRUE(at::equal(part.tokens, at::tensor({10, 11, 12, 13, 20, 21, 22, 23}, at::kLong).view({2, 4})));
  EXPECT_TRUE(at::equal(part.labels, at::tensor({11, 12, 13, 20, 21, -100, 23, 30}, at::kLong)));
  EXPECT_EQ(part.layout.starts, (std::vector<std::vector<int64_t>>{{0}, {0, 2}}));
  EXPECT_EQ(part.layout.first_token, (std::vector<int64_t>{28, 32}));
  EXPECT_EQ(part.first_row, 1);
}

TEST(MicroBatch, WholeRowsIgnoreDocuments) {
  const MicroBatch part = make_micro_batch(example(), 0, 3, RowSplit::whole_rows, at::kCPU);
  EXPECT_EQ(part.layout.starts, (std::vector<std::vector<int64_t>>{{0}, {0}, {0}}));
  EXPECT_EQ(part.layout.first_token, (std::vector<int64_t>{24, 28, 32}));
}

TEST(MicroBatch, KeepsNothingOfTheBatch) {
  Batch batch = example();
  const MicroBatch part = make_micro_batch(batch, 0, 1, RowSplit::whole_rows, at::kCPU);
  batch.tokens.assign(12, -1);
  EXPECT_TRUE(at::equal(part.tokens, at::tensor({0, 1, 2, 3}, at::kLong).view({1, 4})));
}

TEST(MicroBatch, CountsLabels) { EXPECT_EQ(label_count(example()), 11); }

TEST(MicroBatch, NamesDocuments) {
  EXPECT_EQ(describe_documents(example(), 1, 2), "web: a.jsonl:6, web: a.jsonl:6, code: b.u16:0");
  EXPECT_EQ(describe_documents(example(), 0, 3, 2), "web: a.jsonl:5, web: a.jsonl:6 and 3 more");
}

}  // namespace
}  // namespace dga

#include "packing.h"

#include <algorithm>
#include <set>

namespace dga::test {
namespace {

using PackingTest = DataTest;

TEST_F(PackingTest, RowsAreTheStreamOfDocuments) {
  const std::vector<std::string> texts = documents("a", 60);
  DataConfig data = config({source("a", write("a.jsonl", jsonl(texts)))});
  data.shuffle_tokens = 0;
  Loader loader(data, sample_tokenizer(), rows_of(3));
  std::vector<int32_t> expected = stream_of(texts);
  const std::vector<int32_t> again = expected;
  expected.insert(expected.end(), again.begin(), again.end());  // the second epoch: one file, no shuffling
  const auto steps = static_cast<int64_t>(again.size()) / (3 * 64) + 2;
  for (int64_t step = 0; step < steps; ++step) {
    const Batch batch = loader.next();
    ASSERT_EQ(batch.rows, 3);
    ASSERT_EQ(batch.context_length, 64);
    const auto begin = expected.begin() + step * 3 * 64;
    ASSERT_EQ(batch.tokens, std::vector<int32_t>(begin, begin + 3 * 64)) << "step " << step;
    ASSERT_EQ(batch.labels, std::vector<int32_t>(begin + 1, begin + 3 * 64 + 1)) << "step " << step;
    ASSERT_EQ(batch.row_numbers, (std::vector<int64_t>{3 * step, 3 * step + 1, 3 * step + 2}));
  }
}

TEST_F(PackingTest, StartsAndReferencesNameTheDocuments) {
  const std::vector<std::string> texts = documents("a", 40);
  const fs::path file = write("a.jsonl", jsonl(texts));
  DataConfig data = config({source("a", file)});
  data.shuffle_tokens = 0;
  Loader loader(data, sample_tokenizer(), rows_of(2));
  for (int step = 0; step < 6; ++step) {
    const Batch batch = loader.next();
    size_t reference = 0;
    for (int64_t row = 0; row < 2; ++row) {
      std::vector<int64_t> expected = {0};
      for (int64_t i = 1; i < 64; ++i) {
        if (batch.tokens[static_cast<size_t>(row * 64 + i)] == kBos) expected.push_back(i);
      }
      ASSERT_EQ(batch.starts[static_cast<size_t>(row)], expected);
      for (const int64_t start : expected) {
        const DocumentRef& ref = batch.documents.at(reference++);
        EXPECT_EQ(ref.row, row);
        EXPECT_EQ(ref.start, start);
        EXPECT_EQ(ref.source, "a");
        EXPECT_EQ(ref.file, file.string());
        if (batch.tokens[static_cast<size_t>(row * 64 + start)] != kBos) continue;
        const std::vector<int> ids = library_ids(texts.at(static_cast<size_t>(ref.line_or_index - 1)));
        const size_t first = static_cast<size_t>(row * 64 + start) + 1;
        const size_t shown = std::min(ids.size(), batch.tokens.size() - first);
        EXPECT_TRUE(std::equal(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(shown),
                               batch.tokens.begin() + static_cast<std::ptrdiff_t>(first)));
      }
    }
    EXPECT_EQ(reference, batch.documents.size());
  }
}

TEST_F(PackingTest, BosAndEosAreSettings) {
  const std::vector<std::string> texts = documents("a", 30);
  const fs::path file = write("a.jsonl", jsonl(texts));
  for (const bool bos : {false, true}) {
    for (const bool eos : {false, true}) {
      DataConfig data = config({source("a", file)});
      data.shuffle_tokens = 0;
      data.bos = bos;
      data.eos = eos;
      data.bos_id = 7;
      Loader loader(data, sample_tokenizer(), rows_of(2));
      std::vector<int32_t> expected;
      for (const std::string& text : texts) {
        if (bos) expected.push_back(7);
        for (const int id : library_ids(text)) expected.push_back(id);
        if (eos) expected.push_back(kEos);
      }
      expected.resize(128 * 2);
      EXPECT_EQ(take_stream(loader, 2), expected);
    }
  }
}

TEST_F(PackingTest, WithMaskingADocumentsFirstTokenIsNoLabel) {
  DataConfig data = config({source("a", write("a.jsonl", jsonl(documents("a", 60))))});
  data.context_length = 16;
  Loader plain(data, sample_tokenizer(), rows_of(4));
  data.document_masking = true;
  Loader masked(data, sample_tokenizer(), rows_of(4));
  int64_t ignored = 0;
  int64_t at_row_end = 0;
  for (int step = 0; step < 80; ++step) {
    const Batch expected = plain.next();
    const Batch batch = masked.next();
    ASSERT_EQ(batch.tokens, expected.tokens);
    ASSERT_EQ(batch.starts, expected.starts);
    for (size_t i = 0; i < batch.labels.size(); ++i) {
      const bool first = expected.labels[i] == kBos;
      ASSERT_EQ(batch.labels[i], first ? kIgnoreLabel : expected.labels[i]);
      ignored += first;
      at_row_end += first && i % 16 == 15;
    }
  }
  EXPECT_GT(ignored, 100);
  EXPECT_GT(at_row_end, 2);
}

TEST_F(PackingTest, RankSlicesMakeUpTheGlobalBatch) {
  DataConfig data = config({source("a", write("a.jsonl", jsonl(documents("a", 80)))),
                            source("b", write("b.jsonl", jsonl(documents("b", 80))))});
  data.shuffle_tokens = 400;
  data.document_masking = true;
  Loader whole(data, sample_tokenizer(), rows_of(6));
  Loader first(data, sample_tokenizer(), rows_of(6, 0, 2));
  Loader second(data, sample_tokenizer(), rows_of(6, 2, 3));
  Loader third(data, sample_tokenizer(), rows_of(6, 5, 1));
  for (int step = 0; step < 30; ++step) {
    const Batch all = whole.next();
    std::vector<int32_t> tokens;
    std::vector<int32_t> labels;
    std::vector<std::vector<int64_t>> starts;
    std::vector<int64_t> numbers;
    for (Loader* loader : {&first, &second, &third}) {
      const Batch part = loader->next();
      tokens.insert(tokens.end(), part.tokens.begin(), part.tokens.end());
      labels.insert(labels.end(), part.labels.begin(), part.labels.end());
      starts.insert(starts.end(), part.starts.begin(), part.starts.end());
      numbers.insert(numbers.end(), part.row_numbers.begin(), part.row_numbers.end());
      EXPECT_EQ(loader->state(), whole.state());
    }
    ASSERT_EQ(tokens, all.tokens);
    ASSERT_EQ(labels, all.labels);
    ASSERT_EQ(starts, all.starts);
    ASSERT_EQ(numbers, all.row_numbers);
  }
}

TEST_F(PackingTest, ATokenBeyondTheVocabularyIsRefusedByName) {
  const fs::path file = write("a.u16", std::string("\x05\x00\x06\x00\x00\x10\x07\x00", 8));  // 0x1000 = 4096
  Loader loader(config({source("bins", file)}), sample_tokenizer(), rows_of(1));
  const std::string error = error_of([&] { loader.next(); });
  expect_contains(error, file.string());
  expect_contains(error, "token 2 of the document has id 4096, beyond the model's vocabulary of 4096");

  LoaderOptions small = rows_of(1);
  small.vocab_size = 4095;
  expect_contains(error_of([&] { Loader refused(config({source("bins", file)}), sample_tokenizer(), small); }),
                  "the tokenizer has 4096 pieces, more than the model's vocabulary of 4095");
}

TEST_F(PackingTest, BinsAreReadAsTheyAre) {
  // Three documents between separators (99), with empty ones, the last without its separator.
  const std::vector<int32_t> tokens = {10, 11, 12, 99, 99, 13, 99, 14, 15};
  std::string u16;
  std::string u32;
  for (const int32_t token : tokens) {
    u16.append({static_cast<char>(token), '\0'});
    u32.append({static_cast<char>(token), '\0', '\0', '\0'});
  }
  const std::vector<int32_t> with_separator = {1, 10, 11, 12, 2, 1, 13, 2, 1, 14, 15, 2, 1, 10, 11, 12};
  const std::vector<int32_t> without = {1, 10, 11, 12, 99, 99, 13, 99, 14, 15, 2, 1, 10, 11, 12, 99};
  for (const fs::path& file : {write("a.u16", u16), write("a.u32", u32)}) {
    SourceConfig bins = source("bins", file);
    bins.separator = 99;
    DataConfig data = config({bins});
    data.context_length = 16;
    data.shuffle_tokens = 0;
    data.bos_id = kBos;
    data.eos_id = kEos;
    Loader divided(data, nullptr, rows_of(1));
    EXPECT_EQ(divided.next().tokens, with_separator);
    data.sources[0].separator.reset();
    Loader undivided(data, nullptr, rows_of(1));
    EXPECT_EQ(undivided.next().tokens, without);
  }
  expect_contains(error_of([&] {
                    Loader l(config({source("a", write("odd.u16", "abc"))}), sample_tokenizer(), rows_of(1));
                    l.next();
                  }),
                  "odd.u16: 3 bytes are no whole number of u16 tokens");
  DataConfig no_ids = config({source("a", folder / "a.u16")});
  expect_contains(error_of([&] { Loader l(no_ids, nullptr, rows_of(1)); }),
                  "data.bos is on, but there is no such token");
  DataConfig text = config({source("a", write("a.jsonl", jsonl({"a"})))});
  text.bos = text.eos = false;
  expect_contains(error_of([&] {
                    Loader l(text, nullptr, rows_of(1));
                    l.next();
                  }),
                  "set data.tokenizer");
}

}  // namespace
}  // namespace dga::test

#pragma once

#include <map>
#include <string>
#include <vector>

#include "data/loader.h"
#include "text_files.h"

/// What is expected of packed batches, from the texts and the sentencepiece library alone.
namespace dga::test {

constexpr int32_t kBos = 1;
constexpr int32_t kEos = 2;

inline LoaderOptions rows_of(int64_t global, int64_t first = 0, int64_t rows = -1) {
  LoaderOptions options;
  options.seed = 5;
  options.global_batch_size = global;
  options.first_row = first;
  options.rows = rows < 0 ? global : rows;
  options.vocab_size = 4096;
  return options;
}

/// The documents one after the other, each with BOS and EOS.
inline std::vector<int32_t> stream_of(const std::vector<std::string>& texts) {
  std::vector<int32_t> stream;
  for (const std::string& text : texts) {
    stream.push_back(kBos);
    for (const int id : library_ids(text)) stream.push_back(id);
    stream.push_back(kEos);
  }
  return stream;
}

/// Divides a stream at BOS and EOS; the last document may be cut short and is left out.
inline std::vector<std::vector<int32_t>> divide(const std::vector<int32_t>& stream) {
  std::vector<std::vector<int32_t>> found;
  std::vector<int32_t> document;
  for (const int32_t token : stream) {
    if (token == kBos) {
      EXPECT_TRUE(document.empty());
    } else if (token == kEos) {
      found.push_back(std::move(document));
      document.clear();
    } else {
      document.push_back(token);
    }
  }
  return found;
}

/// The stream that some steps' batches hold.
inline std::vector<int32_t> take_stream(Loader& loader, int64_t steps) {
  std::vector<int32_t> stream;
  for (int64_t step = 0; step < steps; ++step) {
    const Batch batch = loader.next();
    stream.insert(stream.end(), batch.tokens.begin(), batch.tokens.end());
  }
  return stream;
}

/// Which of the texts each document of a stream is, as "name number" (the first two words).
class Identifier {
 public:
  explicit Identifier(const std::vector<std::string>& texts) {
    for (const std::string& text : texts) {
      const std::vector<int> ids = library_ids(text);
      names_[std::vector<int32_t>(ids.begin(), ids.end())] = text.substr(0, text.find(' ', text.find(' ') + 1));
    }
  }
  std::vector<std::string> operator()(const std::vector<int32_t>& stream) const {
    std::vector<std::string> names;
    for (const std::vector<int32_t>& document : divide(stream)) {
      const auto found = names_.find(document);
      names.push_back(found == names_.end() ? "?" : found->second);
    }
    return names;
  }

 private:
  std::map<std::vector<int32_t>, std::string> names_;
};

inline void expect_same(const Batch& a, const Batch& b) {
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.context_length, b.context_length);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.labels, b.labels);
  EXPECT_EQ(a.starts, b.starts);
  EXPECT_EQ(a.row_numbers, b.row_numbers);
  ASSERT_EQ(a.documents.size(), b.documents.size());
  for (size_t i = 0; i < a.documents.size(); ++i) {
    EXPECT_EQ(a.documents[i].row, b.documents[i].row);
    EXPECT_EQ(a.documents[i].start, b.documents[i].start);
    EXPECT_EQ(a.documents[i].source, b.documents[i].source);
    EXPECT_EQ(a.documents[i].file, b.documents[i].file);
    EXPECT_EQ(a.documents[i].line_or_index, b.documents[i].line_or_index);
  }
}

}  // namespace dga::test

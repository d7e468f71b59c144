#include <sys/resource.h>

#include <fstream>

#include "data/document_reader.h"
#include "data/token_store.h"
#include "text_files.h"

namespace dga::test {
namespace {

int64_t peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

/// A line of so many bytes between two short ones.
void write_long_line(const fs::path& path, int64_t bytes) {
  std::ofstream out(path);
  out << jsonl({"before"}) << "{\"text\": \"";
  const std::string part =
      "It is a truth universally acknowledged, that a single man in possession of a good fortune. ";
  for (int64_t written = 0; written < bytes; written += static_cast<int64_t>(part.size())) out << part;
  out << "\"}\n" << jsonl({"after"});
}

TEST_F(DataTest, ALineOf300MegabytesFitsIntoBoundedMemory) {
  constexpr int64_t kBytes = 300'000'000;
  write_long_line(folder / "long.jsonl", kBytes);
  DataConfig data = config({});
  data.max_line_bytes = kBytes / 2;
  std::vector<int64_t> lines;
  {
    // Beyond the limit it is not even held.
    DocumentReader reader({source("s", folder / "long.jsonl")}, data, sample_tokenizer());
    while (const auto document = reader.next()) lines.push_back(document->ref.line_or_index);
  }
  EXPECT_EQ(lines, (std::vector<int64_t>{1, 3}));
  EXPECT_LT(peak_bytes(), kBytes);

  data.max_line_bytes = int64_t{1} << 30;
  lines.clear();
  {
    // Not through a DocumentReader, which would hold all tokens of the document.
    SourceConfig from = source("s", folder / "long.jsonl");
    TokenStore store(data, sample_tokenizer());
    const std::shared_ptr<TokenFile> tokens = store.open(list_files(from).at(0));
    const TokenDocument document = tokens->document(1).value();
    EXPECT_GE(document.bytes, kBytes);
    EXPECT_GT(document.tokens, kBytes / 10);
    EXPECT_EQ(tokens->document(2)->line, 3);
    std::vector<int32_t> start(6);
    tokens->read(document.offset, start);
    const std::vector<int> expected = library_ids("It is a truth universally acknowledged");
    EXPECT_TRUE(std::equal(start.begin(), start.end(), expected.begin()));
    store.stop();
  }
  std::printf("peak memory %.2f GB for a line of %.2f GB\n", static_cast<double>(peak_bytes()) / 1e9, kBytes / 1e9);
  EXPECT_LT(peak_bytes(), 5 * kBytes);  // the line, twice in the parser, the text; growing buffers
}

}  // namespace
}  // namespace dga::test

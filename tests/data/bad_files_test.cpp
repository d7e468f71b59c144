#include "data/document_reader.h"
#include "data/token_store.h"
#include "data/tokenize.h"
#include "packing.h"

namespace dga::test {
namespace {

/// Files with every kind of damage; `name` of its source and what is said about it.
class BadFilesTest : public DataTest {
 protected:
  /// Texts that come out of a file under `skip`.
  std::vector<std::string> read(const fs::path& file, int64_t max_line_bytes = 1 << 30) {
    DataConfig data = config({});
    data.max_line_bytes = max_line_bytes;
    DocumentReader reader({source("s", file)}, data, sample_tokenizer());
    std::vector<std::string> texts;
    while (const auto document = reader.next()) {
      texts.push_back(sample_tokenizer()->decode(document->tokens));
      EXPECT_EQ(document->bytes, static_cast<int64_t>(texts.back().size()));
      EXPECT_EQ(document->ref.file, file.string());
      lines.push_back(document->ref.line_or_index);
    }
    return texts;
  }
  ProblemCounts counts(const fs::path& file, int64_t max_line_bytes = 1 << 30) {
    DataConfig data = config({});
    data.max_line_bytes = max_line_bytes;
    return tokenize_sources({source("s", file)}, data, sample_tokenizer(), [](const auto&) { return true; }).problems;
  }
  /// The error under `refuse`, first while tokenising, then (with a shard that `skip` made) from the shard.
  void expect_refused(const fs::path& file, const std::string& message, int64_t max_line_bytes = 1 << 30) {
    DataConfig data = config({source("s", file)});
    data.max_line_bytes = max_line_bytes;
    data.on_error = OnError::refuse;
    for (const bool shard : {false, true}) {
      if (shard) counts(file, max_line_bytes);
      Loader loader(data, sample_tokenizer(), rows_of(1));
      const std::string error = error_of([&] {
        for (int step = 0; step < 200; ++step) loader.next();
      });
      expect_contains(error, file.string() + ":" + message);
      expect_contains(error, "data.on_error");
    }
  }
  std::vector<int64_t> lines;
};

TEST_F(BadFilesTest, BadLinesAreLeftOutAndCountedByKind) {
  const fs::path file =
      write("bad.jsonl", R"({"text": "one"})"
                         "\n"
                         "no json\n"
                         "\n"
                         "{\"meta\": {}}\n"
                         "{\"text\": \"a\xff\"}\n"
                         "{\"text\": \"\"}\n"
                         "   \r\n"
                         "{\"text\": 5}\n"
                         "{\"text\": \"two\"}\r\n"
                         "{\"text\": \"a very long line, far beyond the limit of sixty-four bytes, it is\"}\n"
                         "{\"text\": \"three\"}");
  EXPECT_EQ(read(file, 64), (std::vector<std::string>{"one", "two", "three"}));
  EXPECT_EQ(lines, (std::vector<int64_t>{1, 9, 11}));
  fs::remove_all(folder / "cache");
  const ProblemCounts expected = {0, 1, 1, 1, 2, 1};
  EXPECT_EQ(counts(file, 64), expected);
  EXPECT_EQ(counts(file, 64), expected);  // from the shard
  EXPECT_EQ(describe(expected), "1 long_line, 1 invalid_utf8, 1 invalid_json, 2 missing_text, 1 empty_document");
}

TEST_F(BadFilesTest, RefusingNamesFileAndLine) {
  const std::string good = jsonl(documents("good", 3));
  expect_refused(write("json.jsonl", good + "{\"text\": oops}\n" + good), "4: no JSON at byte 10");
  expect_refused(write("field.jsonl", good + "{\"content\": \"a\"}\n"), "4: field \"text\" is missing");
  expect_refused(write("type.jsonl", "{\"text\": 1}\n" + good), "1: field \"text\" is no string");
  expect_refused(write("empty.jsonl", good + "{\"text\": \"\"}\n"), "4: field \"text\" is empty");
  expect_refused(write("utf8.jsonl", good + "{\"text\": \"a\xc3(\"}\n"), "4: invalid UTF-8 at byte 12");
  expect_refused(write("long.jsonl", good + jsonl({std::string(2000, 'a')})),
                 "4: longer than data.max_line_bytes, 1000: 2026 bytes", 1000);
  const std::string zst = zstd_compress(good);
  expect_refused(write("cut.jsonl.zst", zst.substr(0, zst.size() - 6)), "");
  expect_refused(write("cut.jsonl.gz", gzip_compress(good).substr(0, 60)), "");
  expect_refused(write("empty.txt", ""), "1: the file is empty");
  expect_refused(write("utf8.txt", "text \xff"), "1: invalid UTF-8 at byte 6");
}

TEST_F(BadFilesTest, TheReadablePartOfADamagedFileIsUsed) {
  std::vector<std::string> texts = documents("a", 4000, 30);
  const std::string zst = zstd_compress(jsonl(texts));
  const std::vector<std::string> found = read(write("cut.jsonl.zst", zst.substr(0, zst.size() * 3 / 4)));
  ASSERT_GT(found.size(), 1000u);
  ASSERT_LT(found.size(), 4000u);
  texts.resize(found.size());
  EXPECT_EQ(found, texts);
  EXPECT_EQ(counts(folder / "cut.jsonl.zst")[static_cast<size_t>(ProblemKind::damaged_file)], 1);
}

TEST_F(BadFilesTest, AFileThatCannotBeReadForNowIsReadTheNextTime) {
  const fs::path file = write("a.jsonl.gz", gzip_compress(jsonl(documents("a", 20)))), aside = folder / "aside";
  const SourceFile listed = list_files(source("s", file)).at(0);
  fs::rename(file, aside);
  for (const bool opens : {false, true}) {
    if (opens) fs::create_symlink("/proc/self/mem", file);  // and cannot be read
    TokenStore store(config({}), sample_tokenizer());
    const std::string error = error_of([&] { store.open(listed)->document(0); });
    expect_contains(error, file.string() + ": ");
    expect_contains(error, opens ? "Input/output error" : "No such file");
  }
  EXPECT_TRUE(fs::is_empty(folder / "cache"));
  fs::rename(aside, file);
  EXPECT_EQ(read(file), documents("a", 20));
  EXPECT_EQ(total(counts(file)), 0);
}

TEST_F(BadFilesTest, LongDocumentsAreTheSameInPieces) {
  // Beyond the size from which several threads share a document; with and without places to cut.
  std::string prose;
  while (prose.size() < 600'000)
    prose += "It is a truth  universally\nacknowledged, \n that " + std::to_string(prose.size()) + " ";
  const std::string solid(530'000, 'z');
  const fs::path file = write("long.jsonl", jsonl({"before", prose, "between", solid, "after"}));
  const fs::path text = write("long.txt", prose);
  DocumentReader reader({source("s", file), source("t", text)}, config({}), sample_tokenizer());
  for (const std::string& expected :
       {std::string("before"), prose, std::string("between"), solid, std::string("after"), prose}) {
    const auto document = reader.next();
    ASSERT_TRUE(document);
    const std::vector<int> ids = library_ids(expected);
    EXPECT_TRUE(std::equal(ids.begin(), ids.end(), document->tokens.begin(), document->tokens.end()));
    EXPECT_EQ(document->bytes, static_cast<int64_t>(expected.size()));
  }
  EXPECT_FALSE(reader.next());
}

TEST_F(BadFilesTest, SourcesThatCannotBeReadAtAllAreRefusedAtOnce) {
  const auto error = [&](const SourceConfig& broken) {
    return error_of([&] { Loader loader(config({broken}), sample_tokenizer(), rows_of(1)); });
  };
  expect_contains(error(source("a", folder / "*.jsonl")), "source \"a\": no file matches");
  expect_contains(error(source("a", folder)), "is a folder; data paths name files");
  expect_contains(error(source("a", write("a.csv", "x"))),
                  "the format of source \"a\" does not follow from the ending");
  expect_contains(error(source("a", write("a.u16.gz", "x"))), "cannot be compressed");
  SourceConfig separated = source("a", write("a.jsonl", jsonl({"a"})));
  separated.separator = 2;
  expect_contains(error(separated), "has a separator, but this is no token bin");
  separated = source("a", write("a.u16", "ab"));
  separated.separator = 70000;
  Loader loader(config({separated}), sample_tokenizer(), rows_of(1));
  expect_contains(error_of([&] { loader.next(); }), "separator 70000 does not fit into u16 tokens");
  expect_contains(error_of([&] { Loader none(config({}), sample_tokenizer(), rows_of(1)); }), "data.sources is empty");
}

TEST_F(BadFilesTest, ErrorsInTheBackgroundSurfaceInNext) {
  const fs::path file = write("a.jsonl", jsonl(documents("a", 50)));
  write("cache", "a file where the folder of shards should be");
  Loader loader(config({source("a", file)}), sample_tokenizer(), rows_of(1));
  EXPECT_THROW(loader.next(), std::exception);
  EXPECT_THROW(loader.next(), std::exception);  // and again
}

}  // namespace
}  // namespace dga::test

#include "data/token_shard.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "data/document_reader.h"
#include "data/source_files.h"
#include "data/token_store.h"
#include "data/tokenize.h"
#include "packing.h"

namespace dga::test {
namespace {

class TokenShardTest : public DataTest {
 protected:
  std::vector<fs::path> shards() const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder / "cache")) {
      if (entry.path().extension() != ".documents") found.push_back(entry.path());
    }
    return found;
  }
  TokenizeProgress tokenize(const std::vector<SourceConfig>& sources) const {
    return tokenize_sources(sources, config({}), sample_tokenizer(), [](const auto&) { return true; });
  }
  std::vector<std::vector<int32_t>> read_all(const SourceConfig& from) const {
    DocumentReader reader({from}, config({}), sample_tokenizer());
    std::vector<std::vector<int32_t>> found;
    while (auto document = reader.next()) found.push_back(std::move(document->tokens));
    return found;
  }
};

TEST_F(TokenShardTest, HoldsWhatWasWritten) {
  for (const int token_bytes : {2, 4}) {
    const int32_t largest = token_bytes == 2 ? 65535 : 1000000;
    const std::vector<int32_t> first = {1, 2, largest};
    std::vector<int32_t> second(700'000);  // mapped, not read
    for (size_t i = 0; i < second.size(); ++i) second[i] = static_cast<int32_t>(i % 60000);
    const fs::path path = folder / "cache" / (std::to_string(token_bytes) + ".tokens");
    const std::unique_ptr<ShardWriter> begun = ShardWriter::begin(path, token_bytes);
    ShardWriter& writer = *begun;
    EXPECT_EQ(ShardWriter::begin(path, token_bytes), nullptr);  // while somebody writes it
    writer.append(first);
    std::vector<int32_t> back(2);
    writer.read(1, back);  // while it grows
    EXPECT_EQ(back, (std::vector<int32_t>{2, largest}));
    writer.append(second);
    EXPECT_FALSE(fs::exists(path));
    ShardProblems problems;
    problems.counts[2] = 4;
    problems.first = {ProblemKind::invalid_utf8, 17, "why \xff"};
    writer.finish({{0, 3, 1, 30}, {3, 700'000, 5, 50}}, problems);

    const std::shared_ptr<TokenShard> shard = TokenShard::open(path);
    ASSERT_TRUE(shard);
    EXPECT_EQ(shard->documents(), 2);
    EXPECT_EQ(shard->tokens(), 700'003);
    const TokenDocument document = shard->document(1).value();
    EXPECT_EQ(document.offset, 3);
    EXPECT_EQ(document.tokens, 700'000);
    EXPECT_EQ(document.line, 5);
    EXPECT_EQ(document.bytes, 50);
    EXPECT_EQ(shard->document(0)->tokens, 3);
    EXPECT_FALSE(shard->document(2));
    std::vector<int32_t> tokens(700'000);
    shard->read(3, tokens);
    EXPECT_EQ(tokens, second);
    EXPECT_EQ(shard->problems().counts, problems.counts);
    EXPECT_EQ(shard->problems().first.line, 17);
    expect_contains(error_of([&] { shard->read(4, tokens); }), "of a shard with 700003");
  }
}

TEST_F(TokenShardTest, IsMadeOnceAndMadeAgainWhenTheFileChanges) {
  const fs::path file = write("a.jsonl", jsonl(documents("a", 50)));
  const auto first = read_all(source("a", file));
  ASSERT_EQ(first.size(), 50u);
  ASSERT_EQ(shards().size(), 1u);
  const auto written = fs::last_write_time(shards()[0]);
  EXPECT_EQ(read_all(source("a", file)), first);
  EXPECT_EQ(tokenize({source("a", file)}).found, 1);
  ASSERT_EQ(shards().size(), 1u);
  EXPECT_EQ(fs::last_write_time(shards()[0]), written);

  write("a.jsonl", jsonl(documents("b", 50)));
  EXPECT_NE(read_all(source("a", file)), first);
  EXPECT_EQ(shards().size(), 2u);
}

TEST_F(TokenShardTest, ADamagedShardIsMadeAgain) {
  const fs::path file = write("a.jsonl", jsonl(documents("a", 50)));
  const auto expected = read_all(source("a", file));
  const fs::path shard = shards().at(0);
  const uintmax_t size = fs::file_size(shard);
  for (const uintmax_t cut : {uintmax_t{0}, uintmax_t{10}, uintmax_t{64}, size / 2, size - 1}) {
    fs::resize_file(shard, cut);
    EXPECT_EQ(read_all(source("a", file)), expected) << cut;
    EXPECT_EQ(fs::file_size(shard), size);
  }
  fs::resize_file(shard, size + 1);
  EXPECT_EQ(read_all(source("a", file)), expected);
  EXPECT_EQ(fs::file_size(shard), size);
}

TEST_F(TokenShardTest, DocumentsCanBeReadWhileTheShardGrows) {
  // The file is a pipe, so that tokenising cannot get to its end before we let it.
  const fs::path pipe = folder / "a.jsonl";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  TokenStore store(config({}), sample_tokenizer());
  SourceFile file;
  file.path = pipe;
  file.text_field = "text";
  const std::shared_ptr<TokenFile> growing = store.open(file);
  const int descriptor = open(pipe.c_str(), O_WRONLY);
  const std::vector<std::string> texts = documents("a", 6000);  // more than a block
  const std::string bytes = jsonl(texts);
  std::thread writer(
      [&] { EXPECT_EQ(::write(descriptor, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size())); });
  for (const size_t i : {size_t{0}, size_t{1}, size_t{2000}}) {
    const TokenDocument document = growing->document(static_cast<int64_t>(i)).value();
    std::vector<int32_t> tokens(static_cast<size_t>(document.tokens));
    growing->read(document.offset, tokens);
    const std::vector<int> expected = library_ids(texts[i]);
    EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), expected.begin(), expected.end())) << i;
  }
  ASSERT_EQ(shards().size(), 1u);
  EXPECT_EQ(shards()[0].extension(), ".tmp");
  writer.join();
  close(descriptor);
  EXPECT_FALSE(growing->document(6000));  // waits for the end
  EXPECT_EQ(growing->document(5999)->line, 6000);
  EXPECT_EQ(shards().at(0).extension(), ".tokens");
}

TEST_F(TokenShardTest, TwoProcessesMayMakeTheSameShard) {
  const fs::path file = write("a.jsonl", jsonl(documents("a", 3000)));
  const pid_t child = fork();
  if (child == 0) {
    tokenize({source("a", file)});
    _exit(0);
  }
  const TokenizeProgress progress = tokenize({source("a", file)});
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(progress.documents, 3000);
  ASSERT_EQ(shards().size(), 1u);
  EXPECT_EQ(read_all(source("a", file)).size(), 3000u);
}

TEST_F(TokenShardTest, LeftoversOfAKilledProcessGoAndThoseInUseStay) {
  const fs::path file = write("a.jsonl", jsonl(documents("a", 50)));
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const std::unique_ptr<ShardWriter> writer = ShardWriter::begin(folder / "cache" / "x.tokens", 2);
    writer->append(std::vector<int32_t>(1000, 7));
    char byte = 1;
    if (::write(ready[1], &byte, 1) != 1) _exit(1);
    pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  ASSERT_EQ(shards().size(), 1u);
  remove_stale_temporaries(folder / "cache");
  EXPECT_EQ(shards().size(), 1u);  // its process lives
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(shards().size(), 1u);
  EXPECT_EQ(read_all(source("a", file)).size(), 50u);  // a new store cleans up
  ASSERT_EQ(shards().size(), 1u);
  EXPECT_EQ(shards()[0].extension(), ".tokens");
}

TEST_F(TokenShardTest, WhatAnotherHostWritesInItsPlaceIsNotPublished) {
  // As where locks do not reach the other host: it takes our temporary file for one left behind.
  const fs::path shard = folder / "cache" / "x.tokens", temporary = shard.string() + ".tmp";
  for (const bool finished : {false, true}) {
    const std::unique_ptr<ShardWriter> writer = ShardWriter::begin(shard, 2);
    writer->append(std::vector<int32_t>(1000, 7));
    fs::remove(temporary);
    if (!finished) write("cache/x.tokens.tmp", "half");
    const std::string error = error_of([&] { writer->finish({{0, 1000, 1, 9}}, {}); });
    expect_contains(error, temporary.string());
    expect_contains(error, "give each host a data.cache of its own");
    EXPECT_FALSE(fs::exists(shard));
    EXPECT_EQ(fs::exists(temporary), !finished);
  }
}

TEST_F(TokenShardTest, AFinishedShardKeepsNoThread) {
  const auto mappings = [] {
    std::ifstream maps("/proc/self/maps");
    return std::count(std::istreambuf_iterator<char>(maps), std::istreambuf_iterator<char>(), '\n');
  };
  constexpr int kFiles = 300;
  for (int i = 0; i < kFiles; ++i) write("a" + std::to_string(i) + ".jsonl", jsonl({"a"}));
  TokenStore store(config({}), sample_tokenizer());
  std::vector<std::shared_ptr<TokenFile>> window;
  const auto before = mappings();
  for (const SourceFile& file : list_files(source("a", folder / "*.jsonl"))) {
    window.push_back(store.open(file));
    EXPECT_FALSE(window.back()->document(1));
  }
  EXPECT_LT(mappings() - before, kFiles / 2);
}

TEST_F(TokenShardTest, TokenizingAheadIsWhatTrainingUses) {
  std::vector<SourceConfig> sources;
  for (const char* name : {"a", "b"}) {
    for (int part = 0; part < 6; ++part) {
      write(std::string(name) + "/p" + std::to_string(part) + ".jsonl",
            jsonl(documents(name + std::to_string(part), 40)));
    }
    sources.push_back(source(name, folder / name / "*.jsonl"));
  }
  sources.push_back(source("again", folder / "a" / "*.jsonl"));  // the same files under another name
  sources.push_back(source("bin", write("c.u16", "abcd")));
  int calls = 0;
  const TokenizeProgress stopped =
      tokenize_sources(sources, config({}), sample_tokenizer(), [&](const TokenizeProgress&) { return ++calls < 1; });
  EXPECT_EQ(stopped.files, 12);
  const TokenizeProgress rest = tokenize(sources);
  EXPECT_EQ(rest.done, 12);
  EXPECT_EQ(rest.found, stopped.done);
  EXPECT_EQ(rest.bins, 1);
  EXPECT_EQ(rest.documents, 480);
  EXPECT_EQ(shards().size(), 12u);
  int64_t tokens = 0;
  for (const auto& from : {sources[0], sources[1]}) {
    for (const auto& document : read_all(from)) tokens += static_cast<int64_t>(document.size());
  }
  EXPECT_EQ(rest.tokens, tokens);
  EXPECT_EQ(shards().size(), 12u);
}

}  // namespace
}  // namespace dga::test

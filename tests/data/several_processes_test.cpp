// Processes that need the same token shards: each is made once, by one of them.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <thread>

#include "data/document_reader.h"
#include "data/token_shard.h"
#include "data/tokenize.h"
#include "packing.h"
#include "util/hash.h"

namespace dga::test {
namespace {

/// A forked process that tells this one lines of text.
class Child {
 public:
  template <class Work>
  explicit Child(Work work) {
    int ends[2];
    if (pipe(ends) != 0) std::abort();
    id_ = fork();
    if (id_ != 0) {
      close(ends[1]);
      told_ = fdopen(ends[0], "r");
      return;
    }
    close(ends[0]);
    work([&](const std::string& text) {
      const std::string line = text + "\n";
      if (::write(ends[1], line.data(), line.size()) < 0) _exit(1);
    });
    _exit(0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    kill();
    fclose(told_);
  }

  std::string read_line() {
    char text[256] = "";
    if (fgets(text, sizeof text, told_) == nullptr) return "";
    return std::string(text, strcspn(text, "\n"));
  }
  void kill() {
    if (id_ == 0) return;
    ::kill(id_, SIGKILL);
    waitpid(id_, nullptr, 0);
    id_ = 0;
  }

 private:
  pid_t id_ = 0;
  FILE* told_ = nullptr;
};

class SeveralProcesses : public DataTest {
 protected:
  SourceConfig some_files(int count, int rows) const {
    for (int part = 0; part < count; ++part) {
      const std::string name = "p" + std::to_string(part);
      write("files/" + name + ".jsonl", jsonl(documents(name, rows)));
    }
    return source("a", folder / "files" / "*.jsonl");
  }
  TokenizeProgress tokenize(const SourceConfig& from) const {
    return tokenize_sources({from}, config({}), sample_tokenizer(), [](const auto&) { return true; });
  }
  std::vector<fs::path> shards() const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder / "cache")) found.push_back(entry.path());
    return found;
  }
  int64_t count_documents(const SourceConfig& from) const {
    DocumentReader reader({from}, config({}), sample_tokenizer());
    int64_t count = 0;
    while (reader.next()) ++count;
    return count;
  }
};

TEST_F(SeveralProcesses, EachFileIsTokenisedByOne) {
  const SourceConfig from = some_files(8, 1500);
  std::vector<std::unique_ptr<Child>> children;
  for (int i = 0; i < 4; ++i) {
    children.push_back(std::make_unique<Child>([&](const auto& tell) {
      const TokenizeProgress progress = tokenize(from);
      tell(str(progress.new_tokens, " ", progress.tokens, " ", progress.documents, " ", progress.done));
    }));
  }
  int64_t made = 0, expected = 0;
  for (const auto& child : children) {
    std::istringstream numbers(child->read_line());
    int64_t new_tokens = 0, documents = 0, done = 0;
    numbers >> new_tokens >> expected >> documents >> done;
    made += new_tokens;
    EXPECT_EQ(documents, 8 * 1500);
    EXPECT_EQ(done, 8);
  }
  EXPECT_GT(expected, 0);
  EXPECT_EQ(made, expected);
  EXPECT_EQ(shards().size(), 8u);
}

TEST_F(SeveralProcesses, OrderIsThatOfOneProcess) {
  const SourceConfig from = some_files(5, 400);
  DataConfig data = config({from});
  data.shuffle_tokens = 3000;
  const auto digest = [&](int64_t first_row) {
    Loader loader(data, sample_tokenizer(), rows_of(4, first_row, 2));
    std::string bytes;
    for (int step = 0; step < 40; ++step) {
      const Batch batch = loader.next();
      bytes.append(reinterpret_cast<const char*>(batch.tokens.data()), batch.tokens.size() * sizeof(batch.tokens[0]));
    }
    return hash_hex(bytes);
  };
  std::vector<std::unique_ptr<Child>> children;
  for (const int64_t first_row : {0, 2, 0, 2}) {
    children.push_back(std::make_unique<Child>([&](const auto& tell) { tell(digest(first_row)); }));
  }
  std::vector<std::string> found;
  for (const auto& child : children) found.push_back(child->read_line());
  const std::string first = digest(0), second = digest(2);
  EXPECT_EQ(found, (std::vector<std::string>{first, second, first, second}));
  EXPECT_NE(first, second);
}

TEST_F(SeveralProcesses, AnotherTakesOverFromOneThatIsKilled) {
  const SourceConfig from = some_files(1, 200);
  count_documents(from);
  const fs::path shard = shards().at(0);
  fs::remove(shard);
  Child child([&](const auto& tell) {
    const std::unique_ptr<ShardWriter> writer = ShardWriter::begin(shard, 2);
    writer->append(std::vector<int32_t>(1000, 7));
    tell("writing");
    pause();
  });
  ASSERT_EQ(child.read_line(), "writing");
  std::future<int64_t> count = std::async(std::launch::async, [&] { return count_documents(from); });
  EXPECT_EQ(count.wait_for(std::chrono::milliseconds(400)), std::future_status::timeout);  // somebody else is at it
  child.kill();
  ASSERT_EQ(count.wait_for(std::chrono::seconds(20)), std::future_status::ready);
  EXPECT_EQ(count.get(), 200);
  EXPECT_EQ(shards(), std::vector<fs::path>{shard});
}

TEST_F(SeveralProcesses, OneThatWaitsCanBeStopped) {
  const SourceConfig from = some_files(1, 200);
  count_documents(from);
  const fs::path shard = shards().at(0);
  fs::remove(shard);
  const std::unique_ptr<ShardWriter> elsewhere = ShardWriter::begin(shard, 2);
  const auto begin = std::chrono::steady_clock::now();
  tokenize_sources({from}, config({}), sample_tokenizer(), [](const auto&) { return false; });
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

TEST_F(SeveralProcesses, WhatAnotherLeftOutIsToldAndRefused) {
  const fs::path file = write("a.jsonl", jsonl(documents("a", 20)) + "no json\n");
  const SourceConfig from = source("a", file);
  count_documents(from);
  const fs::path shard = shards().at(0), aside = folder / "aside";
  fs::rename(shard, aside);
  std::unique_ptr<ShardWriter> elsewhere = ShardWriter::begin(shard, 2);
  DataConfig refusing = config({});
  refusing.on_error = OnError::refuse;
  std::future<std::string> error = std::async(std::launch::async, [&] {
    return error_of([&] {
      DocumentReader reader({from}, refusing, sample_tokenizer());
      while (reader.next()) {
      }
    });
  });
  EXPECT_EQ(error.wait_for(std::chrono::milliseconds(300)), std::future_status::timeout);
  fs::rename(aside, shard);  // the other process is ready
  expect_contains(error.get(), "a.jsonl:21");
}

}  // namespace
}  // namespace dga::test

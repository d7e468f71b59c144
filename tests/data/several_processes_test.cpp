// Processes that need the same token shards: each is made once, by one of them.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <thread>

#include "data/document_reader.h"
#include "data/shard_log.h"
#include "data/source_files.h"
#include "data/token_shard.h"
#include "data/token_store.h"
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
  /// Descriptors of this process of files in the cache.
  int64_t open_files() const {
    int64_t count = 0;
    for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
      std::error_code error;
      count += fs::read_symlink(entry.path(), error).string().starts_with((folder / "cache").string()) ? 1 : 0;
    }
    return count;
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

TEST_F(SeveralProcesses, DocumentsOfAnotherProcessAreReadWhileItWrites) {
  signal(SIGPIPE, SIG_IGN);
  const std::vector<std::string> texts = documents("a", 12000);
  // A pipe, so that the other process cannot get to the end before we let it.
  SourceFile file;
  file.path = folder / "a.jsonl";
  file.text_field = "text";
  ASSERT_EQ(mkfifo(file.path.c_str(), 0600), 0);
  Child child([&](const auto& tell) {
    TokenStore store(config({}), sample_tokenizer());
    const std::shared_ptr<TokenFile> made = store.open(file);
    made->document(0);
    tell("begun");
    made->document(12000);
    tell("done");
    pause();
  });
  const std::string bytes = jsonl(texts);
  const size_t half = bytes.rfind('\n', bytes.size() / 2) + 1;
  std::promise<void> rest;
  std::jthread filler([&] {
    const int descriptor = open(file.path.c_str(), O_WRONLY);
    if (::write(descriptor, bytes.data(), half) < 0) std::abort();
    rest.get_future().wait();
    if (::write(descriptor, bytes.data() + half, bytes.size() - half) < 0) std::abort();
    close(descriptor);
  });
  ASSERT_EQ(child.read_line(), "begun");
  TokenStore store(config({}), sample_tokenizer());
  const std::shared_ptr<TokenFile> followed = store.open(file);
  const auto expect_document = [&](int64_t index) {
    const TokenDocument document = followed->document(index).value();
    std::vector<int32_t> tokens(static_cast<size_t>(document.tokens));
    followed->read(document.offset, tokens);
    const std::vector<int> expected = library_ids(texts[static_cast<size_t>(index)]);
    ASSERT_TRUE(std::equal(tokens.begin(), tokens.end(), expected.begin(), expected.end())) << index;
  };
  for (const int64_t index : {0, 1, 2000, 7}) expect_document(index);
  for (const fs::path& path : shards()) EXPECT_NE(path.extension(), ".tokens");
  rest.set_value();
  for (const int64_t index : {11999, 3, 6000}) expect_document(index);
  EXPECT_FALSE(followed->document(12000));
  EXPECT_EQ(open_files(), 0);
  EXPECT_EQ(child.read_line(), "done");
  ASSERT_EQ(shards().size(), 1u);
  EXPECT_EQ(shards()[0].extension(), ".tokens");
}

TEST_F(SeveralProcesses, WhatWasFollowedStaysReadableWhenAnotherTakesOver) {
  const std::vector<std::string> texts = documents("a", 3000);
  const SourceConfig from = source("a", write("a.jsonl", jsonl(texts)));
  count_documents(from);
  const fs::path shard = shards().at(0), aside = folder / "aside";
  fs::rename(shard, aside);
  const std::shared_ptr<TokenShard> whole = TokenShard::open(aside);
  Child child([&](const auto& tell) {
    const std::unique_ptr<ShardWriter> writer = ShardWriter::begin(shard, 2);
    for (int64_t i = 0; i < 1000; ++i) {
      const TokenDocument document = whole->document(i).value();
      std::vector<int32_t> tokens(static_cast<size_t>(document.tokens));
      whole->read(document.offset, tokens);
      writer->append(tokens);
      writer->tell(document);
    }
    writer->flush_told();
    tell("wrote 1000");
    pause();
  });
  ASSERT_EQ(child.read_line(), "wrote 1000");
  TokenStore store(config({}), sample_tokenizer());
  const std::shared_ptr<TokenFile> file = store.open(list_files(from).at(0));
  const auto expect_document = [&](int64_t index) {
    const TokenDocument document = file->document(index).value(), expected = whole->document(index).value();
    EXPECT_EQ(document.offset, expected.offset);
    EXPECT_EQ(document.line, expected.line);
    EXPECT_EQ(document.bytes, expected.bytes);
    std::vector<int32_t> tokens(static_cast<size_t>(document.tokens)), wanted(static_cast<size_t>(expected.tokens));
    file->read(document.offset, tokens);
    whole->read(expected.offset, wanted);
    EXPECT_EQ(tokens, wanted) << index;
  };
  expect_document(999);
  child.kill();
  std::future<void> last = std::async(std::launch::async, [&] { file->document(2999); });
  while (last.wait_for(std::chrono::seconds(0)) == std::future_status::timeout) expect_document(999);
  for (const int64_t index : {998, 2999, 0, 1000, 999}) expect_document(index);
  EXPECT_FALSE(file->document(3000));
  EXPECT_EQ(open_files(), 0);
  EXPECT_EQ(TokenShard::open(shard)->documents(), 3000);
  EXPECT_EQ(shards(), std::vector<fs::path>{shard});
}

TEST_F(SeveralProcesses, OtherDocumentsThanWereFollowedAreNotPublished) {
  const SourceConfig from = some_files(1, 20);
  count_documents(from);
  const fs::path shard = shards().at(0), aside = folder / "aside";
  fs::rename(shard, aside);
  const TokenDocument first = TokenShard::open(aside)->document(0).value();
  const TokenDocument longer = {0, first.tokens + 1, 1, first.bytes + 1};
  for (const auto& [told, message] : {std::pair(TokenDocument{first}, "21 documents"), {longer, "p0.jsonl:1: "}}) {
    std::unique_ptr<ShardWriter> elsewhere = ShardWriter::begin(shard, 2);
    elsewhere->append(std::vector<int32_t>(1000, 7));
    const std::shared_ptr<TokenShard> whole = TokenShard::open(aside);
    elsewhere->tell(told);
    for (int64_t i = 1; i <= 20; ++i) elsewhere->tell(whole->document(i).value_or(TokenDocument{500, 9, 21, 9}));
    elsewhere->flush_told();
    TokenStore store(config({}), sample_tokenizer());
    const std::shared_ptr<TokenFile> file = store.open(list_files(from).at(0));
    ASSERT_TRUE(file->document(20));
    elsewhere.reset();
    expect_contains(error_of([&] { file->document(21); }), message);
    EXPECT_FALSE(fs::exists(shard));
  }
}

TEST_F(SeveralProcesses, ALogIsItsWritersOwn) {
  const fs::path shard = folder / "cache" / "x.tokens";
  std::atomic<int64_t> written = 0, lost = 0;
  const auto work = [&] {
    while (written < 4000) {
      const std::unique_ptr<ShardWriter> writer = ShardWriter::begin(shard, 2);
      if (!writer) continue;
      ++written;
      std::this_thread::sleep_for(std::chrono::microseconds(20));
      if (!fs::exists(shard_log_path(shard))) ++lost;
    }
  };
  { const std::jthread one(work), other(work); }
  EXPECT_EQ(lost, 0) << "of " << written;
}

TEST_F(SeveralProcesses, ADocumentIsKnownOnceItsTokensAreThere) {
  const fs::path shard = folder / "cache" / "x.tokens";
  EXPECT_EQ(ShardFollower::open(shard, 2), nullptr);
  const std::unique_ptr<ShardWriter> writer = ShardWriter::begin(shard, 2);
  writer->append(std::vector<int32_t>{1, 2, 3, 4, 5});
  const std::unique_ptr<ShardFollower> follower = ShardFollower::open(shard, 2);
  writer->tell({0, 5, 1, 9});
  writer->flush_told();
  // As a network file system may show it: the record before the tokens.
  const int descriptor = open(shard_temporary_path(shard).c_str(), O_RDWR);
  const uint16_t hidden = 0, number = 3;
  ASSERT_EQ(pwrite(descriptor, &hidden, 2, 64 + 2 * 2), 2);
  EXPECT_TRUE(follower->next().empty());
  ASSERT_EQ(pwrite(descriptor, &number, 2, 64 + 2 * 2), 2);
  close(descriptor);
  const std::vector<TokenDocument> known = follower->next();
  ASSERT_EQ(known.size(), 1u);
  EXPECT_EQ(known[0].tokens, 5);
  EXPECT_TRUE(follower->next().empty());
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

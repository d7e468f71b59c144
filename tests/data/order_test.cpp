#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "packing.h"

namespace dga::test {
namespace {

/// Some files of documents, and which stream positions they came from.
class OrderTest : public DataTest {
 protected:
  fs::path write_files(const std::string& name, int files, int per_file, int words = 12) {
    for (int file = 0; file < files; ++file) {
      const std::vector<std::string> texts = documents(name + std::to_string(file), per_file, words);
      write(name + "/part" + std::to_string(file) + ".jsonl", jsonl(texts));
      all.insert(all.end(), texts.begin(), texts.end());
    }
    return folder / name / "*.jsonl";
  }
  /// Names of the documents of so many steps.
  std::vector<std::string> order(const DataConfig& data, int64_t steps, uint64_t seed = 5) {
    LoaderOptions options = rows_of(2);
    options.seed = seed;
    Loader loader(data, sample_tokenizer(), options);
    return Identifier(all)(take_stream(loader, steps));
  }
  int64_t epoch_steps(double epochs) const {
    return static_cast<int64_t>(static_cast<double>(stream_of(all).size()) * epochs / 128);
  }
  std::vector<std::string> all;
};

TEST_F(OrderTest, EveryEpochHoldsEveryDocumentOnceInAnotherOrder) {
  const DataConfig data = config({source("a", write_files("a", 5, 30))});
  const std::vector<std::string> names = order(data, epoch_steps(3.2));
  ASSERT_GE(names.size(), 450u);
  std::set<std::vector<std::string>> orders;
  for (int epoch = 0; epoch < 3; ++epoch) {
    std::vector<std::string> part(names.begin() + epoch * 150, names.begin() + (epoch + 1) * 150);
    orders.insert(part);
    EXPECT_EQ(std::set<std::string>(part.begin(), part.end()).size(), 150u) << "epoch " << epoch;
    EXPECT_FALSE(std::is_sorted(part.begin(), part.end()));
  }
  EXPECT_EQ(orders.size(), 3u);
}

TEST_F(OrderTest, FilesArePermutedAndDocumentsKeepTheirPlaceWithoutAWindow) {
  DataConfig data = config({source("a", write_files("a", 7, 10))});
  data.shuffle_tokens = 0;
  const std::vector<std::string> names = order(data, epoch_steps(3.3));
  ASSERT_GE(names.size(), 210u);
  std::set<std::string> file_orders;
  for (int epoch = 0; epoch < 3; ++epoch) {
    std::string files;
    for (int file = 0; file < 7; ++file) {
      const std::string first = names[static_cast<size_t>(epoch * 70 + file * 10)];
      const std::string prefix = first.substr(0, first.find(' '));
      files += prefix;
      for (int i = 0; i < 10; ++i) {
        EXPECT_EQ(names[static_cast<size_t>(epoch * 70 + file * 10 + i)], prefix + " " + std::to_string(i));
      }
    }
    file_orders.insert(files);
  }
  EXPECT_EQ(file_orders.size(), 3u);
}

TEST_F(OrderTest, AWindowHoldsARunOfDocumentsWithEnoughTokens) {
  DataConfig data = config({source("a", write_files("a", 1, 100))});
  data.shuffle_tokens = 500;
  const std::vector<std::string> names = order(data, epoch_steps(1.1));
  ASSERT_GE(names.size(), 100u);
  std::map<std::string, int64_t> tokens;
  for (const std::string& text : all) {
    tokens[text.substr(0, text.find(' ', text.find(' ') + 1))] = static_cast<int64_t>(library_ids(text).size());
  }
  size_t begin = 0;
  int windows = 0;
  while (begin < 100) {
    int64_t sum = 0;
    size_t end = begin;
    std::set<std::string> expected;
    while (end < 100 && sum < 500) {
      const std::string name = "a0 " + std::to_string(end++);
      expected.insert(name);
      sum += tokens.at(name);
    }
    const std::set<std::string> found(names.begin() + static_cast<std::ptrdiff_t>(begin),
                                      names.begin() + static_cast<std::ptrdiff_t>(end));
    EXPECT_EQ(found, expected) << "window from document " << begin;
    begin = end;
    ++windows;
  }
  EXPECT_GT(windows, 3);
}

TEST_F(OrderTest, DependsOnTheSeedAndNotOnThreadsOrShards) {
  DataConfig data = config({source("a", write_files("a", 4, 40)), source("b", write_files("b", 3, 30))});
  data.shuffle_tokens = 600;
  data.tokenizer_threads = 1;
  const int64_t steps = epoch_steps(1.5);
  const std::vector<std::string> names = order(data, steps);
  EXPECT_EQ(std::count(names.begin(), names.end(), "?"), 0);
  EXPECT_EQ(order(data, steps), names);  // from shards now
  data.tokenizer_threads = 7;
  data.cache = folder / "other";
  EXPECT_EQ(order(data, steps), names);
  EXPECT_NE(order(data, steps, 6), names);
  data.sources[0].name = "c";
  EXPECT_NE(order(data, steps), names);
}

TEST_F(OrderTest, WeightsAreSharesOfTokens) {
  DataConfig data = config({source("a", write_files("a", 2, 200)), source("b", write_files("b", 2, 100, 40)),
                            source("c", write_files("c", 1, 50))});
  data.sources[0].weight = 5;
  data.sources[1].weight = 3;
  data.sources[2].weight = 2;
  Loader loader(data, sample_tokenizer(), rows_of(8));
  for (int step = 0; step < 200; ++step) loader.next();
  const nlohmann::json sources = loader.state()["place"]["sources"];
  const double total = 200 * 8 * 64;
  EXPECT_NEAR(sources[0]["tokens"].get<double>() / total, 0.5, 0.01);
  EXPECT_NEAR(sources[1]["tokens"].get<double>() / total, 0.3, 0.01);
  EXPECT_NEAR(sources[2]["tokens"].get<double>() / total, 0.2, 0.01);
  // What the state says is what came.
  Loader again(data, sample_tokenizer(), rows_of(8));
  std::map<char, double> seen;
  for (const std::string& name : Identifier(all)(take_stream(again, 200))) seen[name[0]] += 1;
  EXPECT_GT(seen['a'] / seen['c'], 1.5);
}

TEST_F(OrderTest, ShortDocumentsAreLeftOut) {
  DataConfig data = config({source("a", write_files("a", 2, 60))});
  data.sources[0].min_tokens = 30;
  std::set<std::string> expected;
  for (const std::string& text : all) {
    if (library_ids(text).size() >= 30) expected.insert(text.substr(0, text.find(' ', text.find(' ') + 1)));
  }
  ASSERT_GT(expected.size(), 20u);
  ASSERT_LT(expected.size(), 100u);
  const std::vector<std::string> names = order(data, epoch_steps(1.0));
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()), expected);

  data.sources[0].min_tokens = 100000;
  Loader loader(data, sample_tokenizer(), rows_of(2));
  expect_contains(error_of([&] { loader.next(); }), "source \"a\" has no document of at least 100000 tokens");
}

TEST_F(OrderTest, LongDocumentsAreRepeated) {
  DataConfig data = config({source("a", write_files("a", 4, 150))});
  data.shuffle_tokens = 1 << 30;  // one window an epoch
  data.sources[0].upsample_min_tokens = 30;
  data.sources[0].upsample_factor = 2.5;
  std::map<std::string, size_t> lengths;
  for (const std::string& text : all) {
    lengths[text.substr(0, text.find(' ', text.find(' ') + 1))] = library_ids(text).size();
  }
  const std::vector<std::string> names = order(data, epoch_steps(6));
  // One epoch: up to the third or fourth time that a short document comes.
  std::map<std::string, int> counts;
  std::vector<std::map<std::string, int>> epochs(1);
  size_t short_documents = 0;
  for (const auto& [name, tokens] : lengths) short_documents += tokens < 30;
  size_t seen_short = 0;
  for (const std::string& name : names) {
    if (lengths.at(name) < 30 && ++seen_short > short_documents) break;
    ++epochs[0][name];
  }
  double copies = 0;
  double long_documents = 0;
  for (const auto& [name, tokens] : lengths) {
    if (tokens < 30) {
      EXPECT_EQ(epochs[0][name], 1) << name;
    } else {
      // The epoch's last documents may be missing, or the next one's first be among these.
      copies += epochs[0][name];
      ++long_documents;
    }
  }
  ASSERT_GT(long_documents, 200);
  EXPECT_NEAR(copies / long_documents, 2.5, 0.2);
}

TEST_F(OrderTest, SkippedStepsArePassedOver) {
  DataConfig data = config({source("a", write_files("a", 4, 100))});
  data.shuffle_tokens = 1000;
  Loader plain(data, sample_tokenizer(), rows_of(2));
  std::vector<Batch> batches;
  for (int i = 0; i < 40; ++i) batches.push_back(plain.next());
  data.skip = {{3, 6}, {5, 7}};  // the second in step numbers after the first
  Loader skipping(data, sample_tokenizer(), rows_of(2));
  // Steps 1 2 | 3 batches left out | 3 4 | 2 left out | 5 6 ...
  const std::vector<size_t> expected = {0, 1, 5, 6, 9, 10, 11, 12};
  nlohmann::json state;
  for (size_t step = 0; step < expected.size(); ++step) {
    expect_same(skipping.next(), batches[expected[step]]);
    if (step == 3) state = skipping.state();
  }
  // A range that was added to a run is applied if its step has not been drawn yet.
  DataConfig later = data;
  later.skip.push_back({6, 16});
  Loader resumed(later, sample_tokenizer(), rows_of(2));
  resumed.restore(state);
  expect_same(resumed.next(), batches[9]);
  expect_same(resumed.next(), batches[20]);
  // What lies before the place of the resume changes nothing.
  later.skip = {{2, 30}};
  Loader too_late(later, sample_tokenizer(), rows_of(2));
  too_late.restore(state);
  expect_same(too_late.next(), batches[7]);
}

}  // namespace
}  // namespace dga::test

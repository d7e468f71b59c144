#include <thread>

#include "packing.h"

namespace dga::test {
namespace {

class ResumeTest : public DataTest {
 protected:
  DataConfig two_sources() {
    for (int file = 0; file < 4; ++file) {
      write("a/part" + std::to_string(file) + ".jsonl.zst",
            zstd_compress(jsonl(documents("a" + std::to_string(file), 40))));
    }
    write("b.jsonl.gz", gzip_compress(jsonl(documents("b", 30, 60))));
    DataConfig data = config({source("a", folder / "a" / "*.zst"), source("b", folder / "b.jsonl.gz")});
    data.shuffle_tokens = 700;
    data.sources[0].weight = 2;
    data.sources[1].upsample_min_tokens = 40;
    data.sources[1].upsample_factor = 1.5;
    return data;
  }
};

TEST_F(ResumeTest, GoesOnBitForBitFromAnyStepTwiceInARow) {
  const DataConfig data = two_sources();
  constexpr int kSteps = 90;  // several epochs of both sources
  std::vector<Batch> batches;
  std::vector<nlohmann::json> states;
  Loader whole(data, sample_tokenizer(), rows_of(3));
  states.push_back(whole.state());
  for (int step = 0; step < kSteps; ++step) {
    batches.push_back(whole.next());
    states.push_back(whole.state());
  }
  EXPECT_GT(states.back()["place"]["sources"][0]["epoch"], 1);
  EXPECT_GT(states.back()["place"]["sources"][1]["epoch"], 0);
  DataConfig other = data;
  for (int step = 0; step <= kSteps - 6; ++step) {
    other.tokenizer_threads = 1 + step % 3;
    Loader once(other, sample_tokenizer(), rows_of(3));
    once.restore(nlohmann::json::parse(states[static_cast<size_t>(step)].dump()));
    EXPECT_EQ(once.state(), states[static_cast<size_t>(step)]);
    for (int i = 0; i < 3; ++i) expect_same(once.next(), batches[static_cast<size_t>(step + i)]);
    const nlohmann::json state = once.state();
    EXPECT_EQ(state, states[static_cast<size_t>(step) + 3]);
    Loader twice(data, sample_tokenizer(), rows_of(3));
    twice.restore(state);
    for (int i = 3; i < 6; ++i) expect_same(twice.next(), batches[static_cast<size_t>(step + i)]);
    // The same loader may go back.
    once.restore(states[0]);
    expect_same(once.next(), batches[0]);
  }
}

TEST_F(ResumeTest, WorksWithoutShardsAndWithOtherSlices) {
  const DataConfig data = two_sources();
  Loader whole(data, sample_tokenizer(), rows_of(4));
  std::vector<Batch> batches;
  for (int step = 0; step < 12; ++step) batches.push_back(whole.next());
  const nlohmann::json state = [&] {
    Loader upto(data, sample_tokenizer(), rows_of(4, 1, 2));
    for (int step = 0; step < 10; ++step) upto.next();
    return upto.state();
  }();
  DataConfig fresh = data;
  fresh.cache = folder / "fresh";
  Loader resumed(fresh, sample_tokenizer(), rows_of(4, 3, 1));
  resumed.restore(state);
  const Batch batch = resumed.next();
  EXPECT_EQ(batch.row_numbers, std::vector<int64_t>{43});
  const std::vector<int32_t>& all = batches[10].tokens;
  EXPECT_EQ(batch.tokens, std::vector<int32_t>(all.begin() + 3 * 64, all.end()));
}

TEST_F(ResumeTest, StateIsSmallAndFoldersMayMove) {
  DataConfig data = two_sources();
  Loader whole(data, sample_tokenizer(), rows_of(2));
  for (int step = 0; step < 20; ++step) whole.next();
  const nlohmann::json state = whole.state();
  EXPECT_LT(state["place"].dump().size(), 500u);
  const Batch expected = whole.next();

  fs::create_directories(folder / "moved");
  fs::rename(folder / "a", folder / "moved" / "a");
  data.sources[0].paths = {(folder / "moved" / "a" / "*.zst").string()};
  Loader moved(data, sample_tokenizer(), rows_of(2));
  moved.restore(state);
  EXPECT_EQ(moved.next().tokens, expected.tokens);
}

TEST_F(ResumeTest, RefusesAnotherOrderNamingTheDifference) {
  const DataConfig data = two_sources();
  Loader whole(data, sample_tokenizer(), rows_of(2));
  whole.next();
  const nlohmann::json state = whole.state();
  const auto refusal = [&](const DataConfig& changed, LoaderOptions options = rows_of(2)) {
    Loader loader(changed, sample_tokenizer(), options);
    return error_of([&] { loader.restore(state); });
  };
  EXPECT_EQ(refusal(data), "");

  DataConfig changed = data;
  changed.context_length = 128;
  expect_contains(refusal(changed), "data.context_length: was 64, is 128");
  changed = data;
  changed.shuffle_tokens = 701;
  expect_contains(refusal(changed), "data.shuffle_tokens: was 700, is 701");
  changed = data;
  changed.sources[1].weight = 3;
  expect_contains(refusal(changed), "data.sources[1].weight: was 1.0, is 3.0");
  changed = data;
  changed.sources.pop_back();
  expect_contains(refusal(changed), "data.sources (number): was 2, is 1");
  changed = data;
  changed.eos = false;
  expect_contains(refusal(changed), "data.eos: was true, is false");
  LoaderOptions options = rows_of(2);
  options.seed = 6;
  expect_contains(refusal(data, options), "run.seed: was 5, is 6");
  expect_contains(refusal(data, rows_of(3)), "train.global_batch_size: was 2, is 3");
  write("a/part4.jsonl", jsonl(documents("more", 3)));
  changed = data;
  changed.sources[0].paths.push_back((folder / "a" / "*.jsonl").string());
  expect_contains(refusal(changed), "data.sources[0].paths (number of files): was 4, is 5");

  Loader loader(data, sample_tokenizer(), rows_of(2));
  expect_contains(error_of([&] { loader.restore({{"step", 1}}); }), "the loader's state cannot be read");
}

TEST_F(ResumeTest, EndsPromptlyAtAnyTime) {
  std::string text;
  while (text.size() < 40'000'000) text += jsonl(documents("long", 200, 400));
  const DataConfig data = config({source("a", write("a.jsonl", text))});
  for (const int milliseconds : {0, 1, 20, 60}) {
    const auto begin = std::chrono::steady_clock::now();
    {
      Loader loader(data, sample_tokenizer(), rows_of(2));
      std::thread consumer([&] { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); });
      consumer.join();
    }
    {
      DataConfig small = data;
      small.shuffle_tokens = 1000;
      Loader loader(small, sample_tokenizer(), rows_of(2));
      loader.next();
      std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    }
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
  }
  EXPECT_TRUE(fs::is_empty(data.cache));  // nothing half done is left
}

}  // namespace
}  // namespace dga::test

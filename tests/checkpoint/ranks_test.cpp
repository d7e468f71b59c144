// Checkpoints that several ranks write and read together.
#include <gtest/gtest.h>

#include <mutex>
#include <set>

#include "checkpoint/reader.h"
#include "checkpoint/writer.h"
#include "checkpoint_folder.h"
#include "support/thread_communicator.h"
#include "util/error.h"

namespace dga {
namespace {
namespace fs = std::filesystem;

using testing::run_ranks;

/// What a rank writes: a file of its own, and rank 0 one more.
CheckpointContent of_rank(int64_t step, const Communicator& ranks) {
  CheckpointContent content;
  content.step = step;
  content.parts.emplace_back([step, rank = ranks.rank()](const fs::path& folder) {
    put(folder / str("piece-", rank), str("step ", step, " rank ", rank));
  });
  if (ranks.is_first()) {
    content.parts.emplace_back([](const fs::path& folder) { put(folder / "state.json", "state"); });
  }
  return content;
}

std::set<std::string> entries(const fs::path& folder) {
  std::set<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename());
  return names;
}

/// The messages that the ranks' calls end with, each once.
class Messages {
 public:
  template <class Work>
  void expect_error(Work work) {
    try {
      work();
    } catch (const Error& error) {
      const std::lock_guard lock(mutex_);
      texts_.insert(error.what());
      ++count_;
    }
  }
  int64_t count() const { return count_; }
  const std::set<std::string>& texts() const { return texts_; }

 private:
  std::mutex mutex_;
  std::set<std::string> texts_;
  int64_t count_ = 0;
};

TEST(RanksWrite, AllPartsAreInOneFolder) {
  for (const int64_t world_size : {1, 2, 4}) {
    const TempFolder root;
    run_ranks(world_size, [&](Communicator& ranks) {
      EXPECT_EQ(write_checkpoint(root.path(), of_rank(7, ranks), ranks, "t"), root.path() / "step-7");
    });
    std::set<std::string> expected = {"manifest.json", "state.json"};
    for (int64_t rank = 0; rank < world_size; ++rank) expected.insert(str("piece-", rank));
    EXPECT_EQ(entries(root.path() / "step-7"), expected);
    EXPECT_EQ(entries(root.path()), std::set<std::string>{"step-7"});
    EXPECT_NO_THROW(verify_checkpoint({7, root.path() / "step-7"}));
  }
}

TEST(RanksWrite, OneFailureIsThatOfAll) {
  for (const int64_t failing : {0, 1, 2}) {
    const TempFolder root;
    run_ranks(3, [&](Communicator& ranks) { write_checkpoint(root.path(), of_rank(1, ranks), ranks, "t"); });
    Messages messages;
    run_ranks(3, [&](Communicator& ranks) {
      CheckpointContent content = of_rank(2, ranks);
      if (ranks.rank() == failing) {
        content.parts.emplace_back([](const fs::path&) { throw std::runtime_error("No space left on device"); });
      }
      messages.expect_error([&] { write_checkpoint(root.path(), content, ranks, "t"); });
    });
    EXPECT_EQ(messages.count(), 3);
    ASSERT_EQ(messages.texts().size(), 1U);
    EXPECT_EQ(root.relative(*messages.texts().begin()),
              str("checkpoint step-2 was not written: rank ", failing, ": No space left on device"));
    EXPECT_EQ(entries(root.path()), std::set<std::string>{"step-1"});
  }
}

TEST(RanksWrite, TheLowestOfSeveralFailuresIsNamed) {
  const TempFolder root;
  Messages messages;
  run_ranks(4, [&](Communicator& ranks) {
    CheckpointContent content = of_rank(2, ranks);
    const std::string reason = str("reason ", ranks.rank());
    if (ranks.rank() >= 2) content.parts.emplace_back([reason](const fs::path&) { throw std::runtime_error(reason); });
    messages.expect_error([&] { write_checkpoint(root.path(), content, ranks, "t"); });
  });
  ASSERT_EQ(messages.texts().size(), 1U);
  EXPECT_NE(messages.texts().begin()->find("rank 2: reason 2"), std::string::npos) << *messages.texts().begin();
}

TEST(RanksWrite, FilesOfOneNameAreRefused) {
  const TempFolder root;
  Messages messages;
  run_ranks(2, [&](Communicator& ranks) {
    CheckpointContent content;
    content.step = 1;
    content.parts.emplace_back([](const fs::path& folder) { put(folder / "same", "x"); });
    messages.expect_error([&] { write_checkpoint(root.path(), content, ranks, "t"); });
  });
  EXPECT_EQ(messages.count(), 2);
  EXPECT_NE(messages.texts().begin()->find("two ranks wrote same"), std::string::npos);
}

TEST(RanksWrite, AFolderThatIsNotSharedIsNamed) {
  const TempFolder root, other;
  Messages messages;
  run_ranks(2, [&](Communicator& ranks) {
    const fs::path mine = ranks.is_first() ? root.path() : other.path();
    if (!ranks.is_first()) fs::create_directories(mine / ".writing-step-1");
    messages.expect_error([&] { write_checkpoint(mine, of_rank(1, ranks), ranks, "t"); });
  });
  EXPECT_EQ(messages.count(), 2);
  for (const std::string& text : messages.texts()) EXPECT_NE(text.find("shared run.folder"), std::string::npos) << text;
}

TEST(RanksWrite, InTheBackgroundAStepMayBeSavedAgain) {
  const TempFolder root;
  run_ranks(2, [&](Communicator& ranks) {
    CheckpointConfig config;
    config.keep_last = 1;
    BackgroundWriter writer(root.path(), config, ranks);
    CheckpointContent broken = of_rank(1, ranks);
    if (ranks.rank() == 1) broken.parts.emplace_back([](const fs::path&) { throw std::runtime_error("full"); });
    writer.submit(broken);
    EXPECT_THROW(writer.wait(), Error);
    for (const int64_t step : {1, 1, 2}) {
      writer.submit(of_rank(step, ranks));
      EXPECT_NO_THROW(writer.wait()) << step;
    }
  });
  EXPECT_EQ(entries(root.path()), std::set<std::string>{"step-2"});
}

TEST(RanksWrite, ARankThatIsGoneEndsTheOthers) {
  const TempFolder root;
  run_ranks(3, [&](Communicator& ranks) { write_checkpoint(root.path(), of_rank(1, ranks), ranks, "t"); });
  Messages messages;
  const auto work = [&](Communicator& ranks) {
    CheckpointContent content = of_rank(2, ranks);
    if (ranks.rank() == 1) content.parts.emplace_back([](const fs::path&) { throw 1; });  // nobody catches that
    messages.expect_error([&] { write_checkpoint(root.path(), content, ranks, "t"); });
  };
  EXPECT_THROW(run_ranks(3, work), int);
  EXPECT_EQ(messages.count(), 2);
  for (const std::string& text : messages.texts()) EXPECT_NE(text.find("rank 1"), std::string::npos) << text;
  clean_up_leftovers(root.path());
  EXPECT_EQ(entries(root.path()), std::set<std::string>{"step-1"});
}

TEST(RanksRead, AllGetTheNewestThatIsWhole) {
  const TempFolder root;
  run_ranks(4, [&](Communicator& ranks) {
    for (const int64_t step : {1, 2, 3}) {
      write_checkpoint(root.path(), of_rank(step, ranks), ranks, str("t", step));
    }
  });
  put(root.path() / "step-3" / "piece-2", "damaged");
  fs::remove(root.path() / "step-2" / "piece-3");
  for (const int64_t world_size : {1, 2, 4}) {
    run_ranks(world_size, [&](Communicator& ranks) {
      const auto newest = newest_complete_checkpoint(root.path(), ranks, "find");
      ASSERT_TRUE(newest.has_value());
      EXPECT_EQ(newest->step, 1);
    });
  }
}

TEST(RanksRead, EveryFileIsReadByOne) {
  const TempFolder root;
  run_ranks(4, [&](Communicator& ranks) { write_checkpoint(root.path(), of_rank(1, ranks), ranks, "t"); });
  const CheckpointFolder checkpoint{1, root.path() / "step-1"};
  for (const char* name : {"piece-0", "piece-1", "piece-2", "piece-3", "state.json"}) {
    const std::string before = contents(checkpoint.path / name);
    put(checkpoint.path / name, std::string(before.size(), 'x'));
    int64_t found = 0;
    for (int64_t index = 0; index < 3; ++index) {
      try {
        verify_checkpoint(checkpoint, {index, 3});
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
        ++found;
      }
    }
    EXPECT_EQ(found, 1) << name;
    put(checkpoint.path / name, before);
  }
}

TEST(RanksRead, DifferentViewsAreRefused) {
  const TempFolder root, other;
  write_alone(root.path(), example(5));
  Messages messages;
  run_ranks(2, [&](Communicator& ranks) {
    messages.expect_error(
        [&] { newest_complete_checkpoint(ranks.is_first() ? root.path() : other.path(), ranks, "find"); });
  });
  EXPECT_EQ(messages.count(), 2);
  EXPECT_NE(messages.texts().begin()->find("rank 0 those of step 5, for rank 1 of none"), std::string::npos)
      << *messages.texts().begin();
}

}  // namespace
}  // namespace dga

// What becomes of a run of real processes when one of its ranks fails.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <thread>

#include "dist/rank_group.h"
#include "dist/ranks.h"
#include "dist/together.h"
#include "util/error.h"

namespace dga {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Ranks;
using testing::RankScenario;

constexpr int64_t kSteps = 1 << 30;
constexpr auto kStepTime = milliseconds(20);
/// All ranks must have ended by then, as the program promises.
constexpr double kPromisedSeconds = 60;

/// Quicker than in the program, but no matter of milliseconds on a busy machine.
WatchTimes test_times() {
  WatchTimes times;
  times.meeting = milliseconds(20000);
  times.beat = milliseconds(300);
  times.grace = milliseconds(2000);
  return times;
}

/// A run that reduces a number at each step and says so; `at_step` may do something else.
template <class AtStep>
void run_steps(const LaunchEnvironment& place, c10::Device device, const AtStep& at_step) {
  RankGroup ranks(place, test_times());
  const auto communicator = make_communicator(ranks);
  report_failures(*communicator, [&] {
    for (int64_t step = 1; step <= kSteps; ++step) {
      at_step(ranks, step);
      const at::Tensor number = at::ones({1}, device);
      communicator->all_reduce(number, Reduction::sum)->wait();
      const float sum = number.item<float>();
      communicator->check();
      testing::require(sum == static_cast<float>(place.world_size), "a wrong sum");
      communicator->set_step(step);
      std::printf("step %d\n", static_cast<int>(step));
      std::this_thread::sleep_for(kStepTime);
    }
  });
}

const RankScenario kEndless("endless", [](const LaunchEnvironment& place) {
  run_steps(place, at::kCPU, [](RankGroup&, int64_t) {});
});

/// Gathers in allocated memory too, which the copy engines do: what waits there is not a kernel.
const RankScenario kEndlessOnGpus("endless_on_gpus", [](const LaunchEnvironment& place) {
  RankGroup ranks(place, test_times());
  const auto communicator = make_communicator(ranks);
  report_failures(*communicator, [&] {
    const auto options = at::TensorOptions(at::kFloat).device(testing::gpu_of(place));
    const at::Tensor whole = communicator->allocate(place.world_size, options);
    for (int64_t step = 1; step <= kSteps; ++step) {
      const at::Tensor part = whole.narrow(0, place.rank, 1).fill_(1);
      communicator->all_gather(whole, part)->wait();
      communicator->all_reduce(part, Reduction::sum)->wait();
      const float sum = whole.sum().item<float>();
      communicator->check();
      testing::require(sum == static_cast<float>(2 * place.world_size - 1), "a wrong sum");
      communicator->set_step(step);
      std::printf("step %d\n", static_cast<int>(step));
      std::this_thread::sleep_for(kStepTime);
    }
  });
});

const RankScenario kThrowsOnGpus("throws_on_gpus", [](const LaunchEnvironment& place) {
  run_steps(place, testing::gpu_of(place), [&](RankGroup&, int64_t step) {
    if (place.rank == 1 && step == 4) fail(ExitCode::input, "shard.bin: the disk is on fire");
  });
});

const RankScenario kStopsCallingOnGpus("stops_calling_on_gpus", [](const LaunchEnvironment& place) {
  run_steps(place, testing::gpu_of(place), [&](RankGroup& ranks, int64_t step) {
    ranks.set_limit(seconds(5));
    if (place.rank == 1 && step == 4) std::this_thread::sleep_for(seconds(100));
  });
});

const RankScenario kThrows("throws", [](const LaunchEnvironment& place) {
  run_steps(place, at::kCPU, [&](RankGroup&, int64_t step) {
    if (place.rank == 1 && step == 4) fail(ExitCode::input, "shard.bin: the disk is on fire");
  });
});

const RankScenario kStopsCalling("stops_calling", [](const LaunchEnvironment& place) {
  run_steps(place, at::kCPU, [&](RankGroup& ranks, int64_t step) {
    ranks.set_limit(seconds(3));
    if (place.rank == 1 && step == 4) std::this_thread::sleep_for(seconds(100));
  });
});

const RankScenario kLacksExchange("lacks_exchange", [](const LaunchEnvironment& place) {
  run_steps(place, at::kCPU, [&](RankGroup& ranks, int64_t step) {
    ranks.set_limit(seconds(3));
    if (step == 4 && place.rank != 1) ranks.exchange("files", "mine");
    if (step == 4 && place.rank == 1) std::this_thread::sleep_for(seconds(100));
  });
});

const RankScenario kUnevenEnds("uneven_ends", [](const LaunchEnvironment& place) {
  RankGroup ranks(place, test_times());
  const auto communicator = make_communicator(ranks);
  for (int step = 0; step < 3; ++step) communicator->all_reduce(at::ones({1}), Reduction::sum)->wait();
  if (place.rank == 1) std::this_thread::sleep_for(milliseconds(1500));
});

/// The last rank leaves long after the first two, while its signs of life still come.
const RankScenario kLateEnd("late_end", [](const LaunchEnvironment& place) {
  RankGroup ranks(place, test_times());
  std::this_thread::sleep_for(place.rank == 2 ? milliseconds(2500) : milliseconds(0));
});

/// Writes where nobody reads, as a rank does whose peer was killed a moment ago.
const RankScenario kBrokenPipe("broken_pipe", [](const LaunchEnvironment& place) {
  const RankGroup ranks(place, test_times());
  int ends[2];
  testing::require(pipe(ends) == 0 && close(ends[0]) == 0, "a pipe");
  testing::require(write(ends[1], "x", 1) < 0 && errno == EPIPE, "writing to a closed pipe gave no error");
});

const RankScenario kMeets("meets", [](const LaunchEnvironment& place) {
  WatchTimes times = test_times();
  times.meeting = milliseconds(2000);
  const RankGroup ranks(place, times);
});

const RankScenario kWrongSize("wrong_size", [](const LaunchEnvironment& place) {
  LaunchEnvironment wrong = place;
  if (place.rank == 1) wrong.world_size = 3;
  const RankGroup ranks(wrong, test_times());
});

const RankScenario kSameRank("same_rank", [](const LaunchEnvironment& place) {
  LaunchEnvironment wrong = place;
  if (place.rank == 2) wrong.rank = 1;
  const RankGroup ranks(wrong, test_times());
});

/// All ranks but `failed` end with the code for it and a line that has all of `parts`.
void expect_failure(Ranks& ranks, int64_t failed, const std::vector<std::string>& parts) {
  for (const auto& [rank, result] : ranks.finish(failed)) {
    EXPECT_EQ(result.code, static_cast<int>(ExitCode::rank)) << "rank " << rank << ": " << result.text;
    EXPECT_LT(result.seconds, kPromisedSeconds);
    const size_t at = result.text.find("error: ");
    ASSERT_NE(at, std::string::npos) << "rank " << rank << ": " << result.text;
    for (const std::string& part : parts)
      EXPECT_NE(result.text.find(part, at), std::string::npos) << part << " is not in\n" << result.text.substr(at);
    EXPECT_EQ(result.text.find('\n', at), result.text.size() - 1) << result.text.substr(at);
  }
}

/// Sends the signal to rank 0 of one run and to rank 1 of another, once they train.
void expect_gone(int signal) {
  Ranks runs[] = {{"endless", 3}, {"endless", 3}};
  for (const int64_t rank : {0, 1}) {
    runs[rank].wait_for(rank, "step 20\n");
    runs[rank].send(rank, signal);
  }
  for (const int64_t rank : {0, 1}) expect_failure(runs[rank], rank, {str("rank ", rank, " ("), "is gone", " step "});
}

TEST(Failure, AKilledRankIsNamed) { expect_gone(SIGKILL); }
TEST(Failure, ABrokenConnectionIsAnErrorNotASignal) { testing::expect_success("broken_pipe", 2); }
TEST(Failure, AStoppedRankCountsAsGone) { expect_gone(SIGSTOP); }

TEST(Failure, AnErrorOfOneRankEndsAllWithIt) {
  Ranks ranks("throws", 3);
  auto results = ranks.finish();
  EXPECT_EQ(results[1].code, static_cast<int>(ExitCode::input));
  EXPECT_NE(results[1].text.find("error: shard.bin: the disk is on fire\n"), std::string::npos) << results[1].text;
  for (const int64_t rank : {0, 2}) {
    EXPECT_EQ(results[rank].code, static_cast<int>(ExitCode::rank));
    EXPECT_NE(results[rank].text.find("error: rank 1 ("), std::string::npos) << results[rank].text;
    EXPECT_NE(results[rank].text.find(") failed at step 3: shard.bin: the disk is on fire\n"), std::string::npos)
        << results[rank].text;
  }
}

TEST(Failure, ALateRankIsNamedAfterTheTimeLimit) {
  Ranks collective("stops_calling", 3), exchange("lacks_exchange", 3);
  expect_failure(collective, -1, {"for all_reduce, collective 5", "behind: rank 1 (", ") is at step 3 with 4 begun"});
  expect_failure(exchange, -1, {"exchange \"files\" at step 3", "missing: rank 1 ("});
}

TEST(Failure, ARankThatNeverComesIsNamed) {
  Ranks runs[] = {{"meets", 3, 1}, {"meets", 3, 2}};
  for (const int64_t absent : {1, 2}) {
    expect_failure(runs[absent - 1], -1,
                   {"of 3 ranks these have not come to 127.0.0.1:", str("within 2 s: ", absent, ";")});
  }
}

TEST(Failure, NobodyAtTheAddress) {
  Ranks ranks("meets", 2, 0);
  const auto result = ranks.finish().at(1);
  EXPECT_EQ(result.code, static_cast<int>(ExitCode::config));
  EXPECT_EQ(result.text.find("error: rank 1 finds nobody at 127.0.0.1:"), 0U) << result.text;
  EXPECT_NE(result.text.find("Connection refused"), std::string::npos) << result.text;
  EXPECT_EQ(result.text.find('\n'), result.text.size() - 1) << result.text;
}

TEST(Failure, RanksThatCannotBelongTogether) {
  Ranks sizes("wrong_size", 2), twice("same_rank", 3);
  expect_failure(sizes, -1, {"different world sizes: rank "});
  expect_failure(twice, -1, {"two processes have come as the same rank: rank 1 ("});
}

TEST(Failure, RanksMayEndAtDifferentTimes) {
  Ranks runs[] = {{"uneven_ends", 3}, {"late_end", 3}};
  for (Ranks& run : runs) {
    for (const auto& [rank, result] : run.finish()) EXPECT_EQ(result.code, 0) << "rank " << rank << ": " << result.text;
  }
}

class FailureGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = testing::lack_of_gpus(2); !reason.empty()) GTEST_SKIP() << reason;
  }
};

/// A kernel of NCCL that waits for a rank that is gone must end too.
TEST_F(FailureGpu, AKilledOrStoppedRankIsNamed) {
  for (const int signal : {SIGKILL, SIGSTOP}) {
    for (const int64_t rank : {0, 1}) {
      Ranks ranks("endless_on_gpus", 2);
      ranks.wait_for(rank, "step 20\n");
      ranks.send(rank, signal);
      expect_failure(ranks, rank, {str("rank ", rank, " ("), "is gone", " step "});
    }
  }
}

TEST_F(FailureGpu, AnErrorOfOneRankEndsAllWithIt) {
  auto results = Ranks("throws_on_gpus", 2).finish();
  EXPECT_EQ(results[1].code, static_cast<int>(ExitCode::input)) << results[1].text;
  EXPECT_EQ(results[0].code, static_cast<int>(ExitCode::rank)) << results[0].text;
  EXPECT_NE(results[0].text.find(") failed at step 3: shard.bin: the disk is on fire\n"), std::string::npos)
      << results[0].text;
}

TEST_F(FailureGpu, ALateRankIsNamedAfterTheTimeLimit) {
  Ranks ranks("stops_calling_on_gpus", 2);
  expect_failure(ranks, -1, {"for all_reduce, collective 5", "behind: rank 1 (", ") is at step 3 with 4 begun"});
}

}  // namespace
}  // namespace dga

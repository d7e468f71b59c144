// Collectives among real processes on CPUs.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "dist/operations.h"
#include "dist/rank_group.h"
#include "dist/ranks.h"
#include "util/error.h"

namespace dga {
namespace {

using testing::RankScenario;
using testing::require;

const RankScenario kOperations("operations", [](const LaunchEnvironment& place) {
  RankGroup ranks(place);
  const auto communicator = make_communicator(ranks);
  testing::check_operations(*communicator, at::kCPU);
});

/// The same bits from both ways to sum, and from any cut of the numbers.
const RankScenario kOneSum("one_sum", [](const LaunchEnvironment& place) {
  RankGroup ranks(place);
  const auto communicator = make_communicator(ranks);
  constexpr int64_t kCount = 1 << 20;
  at::manual_seed(static_cast<uint64_t>(place.rank));
  const at::Tensor numbers = at::randn({kCount});
  const at::Tensor whole = numbers.clone(), halves = numbers.clone(), scattered = numbers.clone();
  communicator->all_reduce(whole, Reduction::sum)->wait();
  communicator->all_reduce(halves.narrow(0, 0, 333), Reduction::sum)->wait();
  communicator->all_reduce(halves.narrow(0, 333, kCount - 333), Reduction::sum)->wait();
  const int64_t part = kCount / place.world_size;
  const at::Tensor own = scattered.narrow(0, place.rank * part, part);
  communicator->reduce_scatter(own, scattered)->wait();
  require(whole.equal(halves), "the cut changes the sum");
  require(own.equal(whole.narrow(0, place.rank * part, part)), "reduce_scatter and all_reduce give other bits");
  at::Tensor nan = at::full({3}, place.rank == 1 ? NAN : 1.0F);
  communicator->all_reduce(nan, Reduction::max)->wait();
  require(nan.isnan().all().item<bool>(), "max lost a NaN");
});

const RankScenario kExchange("exchange", [](const LaunchEnvironment& place) {
  RankGroup ranks(place);
  const auto communicator = make_communicator(ranks);
  std::vector<std::string> expected;
  for (int64_t rank = 0; rank < place.world_size; ++rank) expected.push_back(std::string(rank * 100000, 'x') + "end\n");
  for (const char* topic : {"first", "second"}) {
    require(communicator->exchange(topic, expected[static_cast<size_t>(place.rank)]) == expected, topic);
  }
  try {
    communicator->exchange("first", "");
    require(false, "a topic was used twice");
  } catch (const Error&) {
  }
});

TEST(Gloo, EveryOperationOnTwoAndFourProcesses) {
  testing::expect_success("operations", 2);
  testing::expect_success("operations", 4);
}
TEST(Gloo, ASumHasTheSameBitsHoweverItIsCut) { testing::expect_success("one_sum", 4); }
TEST(Gloo, TextsAreExchanged) { testing::expect_success("exchange", 3); }

TEST(Gloo, OneProcessNeedsNoOthers) {
  RankGroup alone{LaunchEnvironment()};
  EXPECT_EQ(alone.exchange("topic", "text"), std::vector<std::string>{"text"});
  testing::check_operations(*make_communicator(alone), at::kCPU);
}

}  // namespace
}  // namespace dga

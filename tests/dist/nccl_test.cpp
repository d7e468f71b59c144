// Collectives among GPUs.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "dist/operations.h"
#include "dist/rank_group.h"
#include "dist/ranks.h"
#include "util/error.h"

namespace dga {
namespace {

using testing::RankScenario;

const RankScenario kOperations("operations_on_gpus", [](const LaunchEnvironment& place) {
  RankGroup ranks(place);
  const auto communicator = make_communicator(ranks);
  testing::check_operations(*communicator, testing::gpu_of(place));
});

/// Ranks that take each other for other hosts', so that nothing is done within a host.
const RankScenario kOperationsBetweenHosts("operations_between_hosts", [](const LaunchEnvironment& place) {
  LaunchEnvironment apart = place;
  apart.local_rank = 0;
  apart.local_world_size = 1;
  RankGroup ranks(apart);
  const auto communicator = make_communicator(ranks);
  testing::check_operations(*communicator, testing::gpu_of(place));
});

/// Memory that a collective reads is given back at once and used anew by work of the current stream.
const RankScenario kLifetimes("lifetimes_on_gpus", [](const LaunchEnvironment& place) {
  RankGroup ranks(place);
  const auto communicator = make_communicator(ranks);
  const c10::Device device = testing::gpu_of(place);
  constexpr int64_t kCount = 1 << 22;
  const at::Tensor expected = at::full({kCount}, static_cast<float>(place.world_size), device);
  for (int round = 0; round < 50; ++round) {
    const at::Tensor whole = at::empty({kCount * place.world_size}, device);
    {
      auto pending = communicator->all_gather(whole, at::ones({kCount}, device));
      if (round % 2 == 0) pending->wait();
    }
    const at::Tensor other = at::full({kCount}, 7.0F, device);  // perhaps where the ones were
    testing::require(whole.view({place.world_size, kCount}).sum(0).equal(expected), "memory was used too early");
    testing::require(other.eq(7).all().item<bool>(), "memory was used too long");
  }
});

/// One process with both kinds of tensors: GPUs for the model, a few numbers on the CPU.
const RankScenario kBoth("both_devices", [](const LaunchEnvironment& place) {
  RankGroup ranks(place);
  const auto communicator = make_communicator(ranks);
  for (const c10::Device device : {testing::gpu_of(place), c10::Device(c10::kCPU)}) {
    const at::Tensor number = at::ones({3}, device);
    communicator->all_reduce(number, Reduction::sum)->wait();
    testing::require(number.eq(place.world_size).all().item<bool>(), "a wrong sum on " + device.str());
  }
});

class NcclGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = testing::lack_of_gpus(2); !reason.empty()) GTEST_SKIP() << reason;
  }
};

TEST_F(NcclGpu, EveryOperation) { testing::expect_success("operations_on_gpus", 2); }
TEST_F(NcclGpu, EveryOperationAsBetweenHosts) { testing::expect_success("operations_between_hosts", 2); }
TEST_F(NcclGpu, MemoryLivesAsLongAsACollectiveNeedsIt) { testing::expect_success("lifetimes_on_gpus", 2); }
TEST_F(NcclGpu, BothDevices) { testing::expect_success("both_devices", 2); }

TEST_F(NcclGpu, EveryOperationOnAllGpus) {
  if (const std::string reason = testing::lack_of_gpus(4); !reason.empty()) GTEST_SKIP() << reason;
  testing::expect_success("operations_on_gpus", 4);
}

}  // namespace
}  // namespace dga

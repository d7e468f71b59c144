#include "dist/ranks.h"

#include <ATen/Context.h>
#include <arpa/inet.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "util/error.h"
#include "util/file.h"

namespace dga::testing {
namespace {

constexpr const char* kScenarioVariable = "DGA_RANK_SCENARIO";
constexpr double kLimitSeconds = 120;
constexpr auto kPoll = std::chrono::milliseconds(10);

std::map<std::string, RankBody>& scenarios() {
  static std::map<std::string, RankBody> bodies;
  return bodies;
}

std::filesystem::path output_of(const TempFolder& folder, int64_t rank) {
  return folder.path() / str("rank-", rank, ".txt");
}

int run_scenario(const std::string& name) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  try {
    scenarios().at(name)(find_launch_environment());
    return 0;
  } catch (const Error& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    std::fflush(nullptr);
    std::_Exit(static_cast<int>(e.code()));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: internal: %s\n", e.what());
    return 1;
  }
}

}  // namespace

RankScenario::RankScenario(const std::string& name, RankBody body) { scenarios()[name] = body; }

Ranks::Ranks(const std::string& scenario, int64_t world_size, int64_t absent) {
  const int64_t port = free_port();
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  for (int64_t rank = 0; rank < world_size; ++rank) {
    if (rank == absent) continue;
    const std::vector<std::string> environment = {str(kScenarioVariable, "=", scenario),
                                                  str("RANK=", rank),
                                                  str("WORLD_SIZE=", world_size),
                                                  str("LOCAL_RANK=", rank),
                                                  "MASTER_ADDR=127.0.0.1",
                                                  str("LOCAL_WORLD_SIZE=", world_size),
                                                  str("MASTER_PORT=", port),
                                                  "OMP_NUM_THREADS=1"};
    processes_.emplace(rank, ChildProcess({program}, environment, output_of(folder_, rank)));
  }
}

Ranks::~Ranks() {
  for (const auto& [rank, process] : processes_) process.send(SIGKILL);
}

std::string Ranks::text_of(int64_t rank) const {
  const std::filesystem::path file = output_of(folder_, rank);
  return std::filesystem::exists(file) ? read_file(file) : "";
}

void Ranks::wait_for(int64_t rank, const std::string& text) const {
  while (text_of(rank).find(text) == std::string::npos) {
    if (since_start_.seconds() > kLimitSeconds) FAIL() << "rank " << rank << " did not print " << text;
    std::this_thread::sleep_for(kPoll);
  }
}

std::map<int64_t, RankResult> Ranks::finish(int64_t except) {
  std::map<int64_t, RankResult> results;
  const size_t expected = processes_.size() - processes_.count(except);
  while (results.size() < expected) {
    for (auto& [rank, process] : processes_) {
      if (rank == except || results.count(rank) != 0) continue;
      const double seconds = since_start_.seconds();
      if (const auto code = process.exit_code()) {
        results[rank] = {*code, seconds, text_of(rank)};
      } else if (seconds > kLimitSeconds) {
        process.send(SIGKILL);
        results[rank] = {-1000, seconds, text_of(rank)};
      }
    }
    std::this_thread::sleep_for(kPoll);
  }
  if (processes_.count(except) != 0) processes_.at(except).send(SIGKILL);
  return results;
}

void expect_success(const std::string& scenario, int64_t world_size) {
  for (const auto& [rank, result] : Ranks(scenario, world_size).finish()) {
    EXPECT_EQ(result.code, 0) << scenario << ", rank " << rank << " of " << world_size << ": " << result.text;
  }
}

int64_t free_port() {
  const int id = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  if (bind(id, reinterpret_cast<sockaddr*>(&address), size) != 0) throw std::runtime_error("no free port");
  getsockname(id, reinterpret_cast<sockaddr*>(&address), &size);
  close(id);
  return ntohs(address.sin_port);
}

c10::Device gpu_of(const LaunchEnvironment& place) {
  const c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(place.local_rank));
  c10::impl::VirtualGuardImpl(c10::kCUDA).setDevice(device);
  return device;
}

std::string lack_of_gpus(int64_t needed) {
  const int64_t present = at::hasCUDA() ? at::detail::getCUDAHooks().deviceCount() : 0;
  return present >= needed ? "" : str("needs ", needed, " GPUs, there are ", present);
}

void require(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}

}  // namespace dga::testing

/// Without a scenario this is an ordinary test binary.
int main(int argc, char** argv) {
  if (const char* scenario = std::getenv(dga::testing::kScenarioVariable)) return dga::testing::run_scenario(scenario);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

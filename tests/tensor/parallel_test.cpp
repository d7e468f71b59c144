#include "tensor/parallel.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

namespace dga {
namespace {

TEST(ForEachInParallel, CallsEveryIndexOnce) {
  for (const int64_t count : {0, 1, 1000}) {
    std::vector<std::atomic<int>> calls(static_cast<size_t>(count));
    for_each_in_parallel(count, [&](int64_t i) { ++calls[static_cast<size_t>(i)]; });
    for (const std::atomic<int>& call : calls) EXPECT_EQ(call, 1);
  }
}

TEST(ForEachInParallel, UsesLibTorchsThreadsAtOnce) {
  const int before = at::get_num_threads();
  at::set_num_threads(3);
  std::mutex mutex;
  std::condition_variable all_here;
  std::set<std::thread::id> threads;
  // Each call waits until three threads are inside.
  for_each_in_parallel(3, [&](int64_t) {
    std::unique_lock lock(mutex);
    threads.insert(std::this_thread::get_id());
    all_here.notify_all();
    all_here.wait_for(lock, std::chrono::seconds(20), [&] { return threads.size() == 3; });
    EXPECT_EQ(at::get_num_threads(), 1);
  });
  EXPECT_EQ(threads.size(), 3u);
  EXPECT_EQ(at::get_num_threads(), 3);
  at::set_num_threads(before);
}

}  // namespace
}  // namespace dga

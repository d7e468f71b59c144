#include "tensor/parallel.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace dga {

void for_each_in_parallel(int64_t count, const std::function<void(int64_t)>& work) {
  const int threads = at::get_num_threads();
  std::atomic<int64_t> next = 0;
  const auto run = [&] {
    at::set_num_threads(1);  // of this thread, and of threads that are yet to start
    for (int64_t i = next++; i < count; i = next++) work(i);
  };
  {
    std::vector<std::jthread> helpers;
    for (int64_t i = 1; i < std::min<int64_t>(count, threads); ++i) helpers.emplace_back(run);
    run();
  }
  at::set_num_threads(threads);
}

}  // namespace dga

#include "tensor/parallel.h"

#include <ATen/Parallel.h>
#include <c10/util/ParallelGuard.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace dga {

void for_each_in_parallel(int64_t count, const std::function<void(int64_t)>& work) {
  std::atomic<int64_t> next = 0;
  const auto run = [&] {
    const c10::ParallelGuard guard(true);
    for (int64_t i = next++; i < count; i = next++) work(i);
  };
  std::vector<std::jthread> helpers;
  const int64_t threads = std::min<int64_t>(count, at::get_num_threads());
  for (int64_t i = 1; i < threads; ++i) helpers.emplace_back(run);
  run();
}

}  // namespace dga

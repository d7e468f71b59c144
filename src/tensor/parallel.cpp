#include "tensor/parallel.h"

#include <ATen/Parallel.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
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

void set_math_threads(int64_t threads, int64_t processes) {
  if (threads > 0) return at::set_num_threads(static_cast<int>(threads));
  if (processes == 1 || std::getenv("OMP_NUM_THREADS") != nullptr) return;
  cpu_set_t bound;
  CPU_ZERO(&bound);
  if (sched_getaffinity(0, sizeof(bound), &bound) != 0) return;
  // Launchers that bind a process to some cores have divided them already.
  const int64_t all = std::max<int64_t>(sysconf(_SC_NPROCESSORS_ONLN), 1);
  const int64_t usable = std::max<int64_t>(CPU_COUNT(&bound), 1);
  const int64_t now = at::get_num_threads();
  at::set_num_threads(static_cast<int>(std::clamp<int64_t>(now * all / (usable * processes), 1, now)));
}

}  // namespace dga

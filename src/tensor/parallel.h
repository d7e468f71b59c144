#pragma once

#include <cstdint>
#include <functional>

namespace dga {

/// Calls work(i) for every i in [0, count), on as many threads as LibTorch uses; each call runs LibTorch's operations
/// on its own thread alone. (at::parallel_for is serial in code that is compiled without OpenMP, as this project is.)
/// `work` must not throw.
void for_each_in_parallel(int64_t count, const std::function<void(int64_t)>& work);

/// Sets the threads of LibTorch's operations: `threads`, or for 0 this process's share of the cores among the
/// `processes` of this host (all of them for one; no more than OMP_NUM_THREADS or the cores that it is bound to).
void set_math_threads(int64_t threads, int64_t processes);

}  // namespace dga

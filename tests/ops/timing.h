#pragma once

#include <c10/core/DeviceType.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <functional>
#include <vector>

namespace dga::testing {

/// Median of 20 runs on the current stream of the first GPU, after 3 that do not count.
inline double median_ms(const std::function<void()>& work) {
  const c10::impl::VirtualGuardImpl device(at::kCUDA);
  const c10::Stream stream = device.getStream({at::kCUDA, 0});
  std::vector<double> times;
  for (int i = 0; i < 23; ++i) {
    c10::Event begin(at::kCUDA, c10::EventFlag::BACKEND_DEFAULT), end(at::kCUDA, c10::EventFlag::BACKEND_DEFAULT);
    begin.record(stream);
    work();
    end.record(stream);
    end.synchronize();
    if (i >= 3) times.push_back(begin.elapsedTime(end));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace dga::testing

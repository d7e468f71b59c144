#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace dga {

/// Something that the device did: a kernel, a copy, a fill.
struct DeviceWork {
  std::string name;
  uint64_t begin_ns = 0, end_ns = 0;
  int64_t stream = 0;
};

/// Where the device's time went.
struct StepProfile {
  struct Row {
    std::string name;
    int64_t calls = 0;
    double ms = 0;
  };
  double span_ms = 0;        // from the first work to the end of the last
  double idle_ms = 0;        // within it, nothing running: launch gaps and waiting
  std::vector<Row> classes;  // products, attention, ..., by time
  std::vector<Row> kernels;  // by name, by time
  // While other streams worked, the one that works most had nothing to do, or was held up: by what it did next, by
  // time.
  std::vector<Row> waits;
};

/// Overlapping work (copies beside kernels) counts once in the idle time and in full in its own row.
StepProfile summarize(std::vector<DeviceWork> work);

/// Runs `step`, which must wait for the device itself, under LibTorch's profiler. Empty where the device reports no
/// work (a CPU).
StepProfile profile_step(const std::function<void()>& step);

}  // namespace dga

#pragma once

#include <c10/core/Device.h>
#include <c10/core/Event.h>

#include <vector>

namespace dga {

/// Points in the work of a GPU: mark() records one behind everything enqueued on the calling thread's current stream.
class DeviceTimeline {
 public:
  /// `device` must be a GPU.
  explicit DeviceTimeline(c10::Device device);

  void mark();
  /// Waits for the last mark and returns the milliseconds between successive ones; then there are no marks.
  std::vector<double> intervals_ms();

 private:
  c10::Device device_;
  std::vector<c10::Event> events_;
};

/// The middle of the values in order, the upper one of two. Not empty.
double median(std::vector<double> values);

}  // namespace dga

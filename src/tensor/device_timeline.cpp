#include "tensor/device_timeline.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>

#include "util/error.h"

namespace dga {

DeviceTimeline::DeviceTimeline(c10::Device device) : device_(device) {
  DGA_CHECK(!device.is_cpu(), "a timeline is of a GPU, not of ", device.str());
}

void DeviceTimeline::mark() {
  // BACKEND_DEFAULT: an event that keeps its time.
  c10::Event event(device_.type(), c10::EventFlag::BACKEND_DEFAULT);
  event.record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  events_.push_back(std::move(event));
}

std::vector<double> DeviceTimeline::intervals_ms() {
  std::vector<double> intervals;
  if (!events_.empty()) events_.back().synchronize();
  for (size_t i = 1; i < events_.size(); ++i) intervals.push_back(events_[i - 1].elapsedTime(events_[i]));
  events_.clear();
  return intervals;
}

double median(std::vector<double> values) {
  DGA_CHECK(!values.empty(), "no median of nothing");
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace dga

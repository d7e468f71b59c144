#include "train/device_mark.h"

#include <c10/core/impl/VirtualGuardImpl.h>

namespace dga {

DeviceMark::DeviceMark(c10::Device device) : time_(std::chrono::steady_clock::now()) {
  if (device.is_cpu()) return;
  event_ = std::make_shared<c10::Event>(device.type(), c10::EventFlag::BACKEND_DEFAULT);  // the default has no times
  event_->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
}

void DeviceMark::wait() const {
  if (event_) event_->synchronize();
}

double DeviceMark::seconds_since(const DeviceMark& earlier) const {
  if (!event_) return std::chrono::duration<double>(time_ - earlier.time_).count();
  wait();
  return earlier.event_->elapsedTime(*event_) / 1e3;
}

}  // namespace dga

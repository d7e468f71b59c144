#pragma once

#include <c10/core/Device.h>
#include <c10/core/Event.h>

#include <chrono>
#include <memory>

namespace dga {

/// A point in a device's work, set without waiting for it.
class DeviceMark {
 public:
  /// After everything that was given to the device's current stream so far; on a CPU that is done, so it is now.
  explicit DeviceMark(c10::Device device);

  /// Waits until the device is there.
  void wait() const;
  /// Time that the device took from an earlier mark to this one; waits for both.
  double seconds_since(const DeviceMark& earlier) const;

 private:
  std::shared_ptr<c10::Event> event_;  // null on a CPU
  std::chrono::steady_clock::time_point time_;
};

}  // namespace dga

#pragma once

#include <cstdint>
#include <string>
#include <vector>

/// What CUDA devices there are. Plain C++: it may be included without the CUDA toolkit.
namespace dga::kernels {

struct Device {
  int index = 0;
  std::string name;
  int major = 0;  // compute capability, 9.0 for Hopper
  int minor = 0;
  int multiprocessors = 0;
  int64_t memory_bytes = 0;
  int64_t free_bytes = 0;
  bool has_code = false;  // whether this binary's kernels were compiled for the device
};

/// Whether this binary was built with CUDA.
bool built_with_cuda();

/// The architectures that the kernels were compiled for ("80 90a"); empty in a build without CUDA.
std::string compiled_architectures();

/// The visible devices in CUDA's order. The list is empty where there is none, and then `why_none` says why in one
/// sentence ("built without CUDA", "no CUDA driver ...").
struct DeviceList {
  std::vector<Device> devices;
  std::string why_none;
};

/// Whether this binary's kernels were compiled for the visible device `index`; false in a build without CUDA. Throws
/// std::runtime_error where there is no such device.
bool device_has_code(int index);

/// Asks the CUDA runtime for all devices; this makes a context on each of them. Throws std::runtime_error where the
/// driver answers with anything but devices or "there are none".
DeviceList list_devices();

}  // namespace dga::kernels

#include "kernels/common/device.h"

namespace dga::kernels {

bool built_with_cuda() { return false; }

std::string compiled_architectures() { return ""; }

bool device_has_code(int) { return false; }

DeviceList list_devices() { return {{}, "built without CUDA"}; }

}  // namespace dga::kernels

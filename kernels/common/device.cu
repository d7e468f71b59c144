#include <cuda_runtime.h>

#include "kernels/common/check.h"
#include "kernels/common/device.h"

namespace dga::kernels {
namespace {

/// Never launched: its attributes can be read only where the binary holds code for the current device.
__global__ void probe_kernel() {}

bool current_device_has_code() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, probe_kernel);
  if (error == cudaSuccess) return true;
  cudaGetLastError();  // the failed look-up would otherwise be reported by the next check
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) return false;
  throw_cuda_error(error, "cudaFuncGetAttributes(probe_kernel)", __FILE__, __LINE__);
}

Device describe(int index) {
  DGA_CUDA_CHECK(cudaSetDevice(index));
  cudaDeviceProp properties;
  DGA_CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  DGA_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  Device device;
  device.index = index;
  device.name = properties.name;
  device.major = properties.major;
  device.minor = properties.minor;
  device.multiprocessors = properties.multiProcessorCount;
  device.memory_bytes = static_cast<int64_t>(total_bytes);
  device.free_bytes = static_cast<int64_t>(free_bytes);
  device.has_code = current_device_has_code();
  return device;
}

}  // namespace

bool built_with_cuda() { return true; }

std::string compiled_architectures() { return DGA_CUDA_ARCHITECTURES; }

bool device_has_code(int index) {
  int current = 0;
  DGA_CUDA_CHECK(cudaGetDevice(&current));
  DGA_CUDA_CHECK(cudaSetDevice(index));
  const bool has_code = current_device_has_code();
  DGA_CUDA_CHECK(cudaSetDevice(current));
  return has_code;
}

DeviceList list_devices() {
  DeviceList list;
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver || (error == cudaSuccess && count == 0)) {
    cudaGetLastError();
    list.why_none = error == cudaErrorInsufficientDriver
                        ? "no CUDA driver, or one too old for CUDA " + std::to_string(CUDART_VERSION / 1000) + "." +
                              std::to_string(CUDART_VERSION % 1000 / 10)
                        : "no CUDA device";
    return list;
  }
  DGA_CUDA_CHECK(error);
  int current = 0;
  DGA_CUDA_CHECK(cudaGetDevice(&current));
  for (int index = 0; index < count; ++index) list.devices.push_back(describe(index));
  DGA_CUDA_CHECK(cudaSetDevice(current));
  return list;
}

}  // namespace dga::kernels

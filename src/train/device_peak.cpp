#include "train/device_peak.h"

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <sys/resource.h>

#include <utility>

#ifdef DGA_WITH_CUDA
#include <ATen/cuda/CUDAContext.h>
#endif

namespace dga {

std::optional<double> peak_flops(const std::string& device_name) {
  // TFLOP/s without sparsity, from NVIDIA's data sheets of each product (H100, H200, A100, L40S, L4, B200). The first
  // entry whose name occurs in the device's name counts, so variants stand before the plain name.
  static constexpr std::pair<const char*, double> kPeaks[] = {
      {"H100 PCIe", 756}, {"H100 NVL", 835}, {"H100", 989},  {"GH200", 989}, {"H200 NVL", 835},
      {"H200", 989},      {"B200", 2250},    {"A100", 312},  {"A800", 312},  {"H800", 989},
      {"L40S", 362},      {"L4", 121},       {"A40", 149.7}, {"A10", 125}};
  for (const auto& [name, tera] : kPeaks) {
    if (device_name.find(name) != std::string::npos) return tera * 1e12;
  }
  return std::nullopt;
}

std::string device_name(at::Device device) {
#ifdef DGA_WITH_CUDA
  if (device.is_cuda()) return at::cuda::getDeviceProperties(device.index())->name;
#endif
  return device.is_cpu() ? "cpu" : device.str();
}

int64_t peak_memory_bytes(at::Device device) {
  if (!device.is_cpu()) {
    const auto stats = at::getDeviceAllocator(device.type())->getDeviceStats(device.index());
    return stats.allocated_bytes[0].peak;
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

}  // namespace dga

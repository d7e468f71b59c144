#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/common/check.h"

namespace dga::kernels::testing {

/// Device memory between two guard zones. Everything starts as bytes 0xff: NaN in bf16 and fp32, -1 in int32.
template <typename T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t count) : count_(count) {
    DGA_CUDA_CHECK(cudaMalloc(&memory_, bytes() + 2 * kGuardBytes));
    DGA_CUDA_CHECK(cudaMemset(memory_, 0xff, bytes() + 2 * kGuardBytes));
  }
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(values.size()) {
    DGA_CUDA_CHECK(cudaMemcpy(get(), values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer() { cudaFree(memory_); }

  T* get() const { return reinterpret_cast<T*>(memory_ + kGuardBytes); }
  size_t count() const { return count_; }

  std::vector<T> download() const {
    std::vector<T> values(count_);
    DGA_CUDA_CHECK(cudaMemcpy(values.data(), get(), count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }
  /// Whether nothing has written before or behind the buffer.
  bool guards_intact() const {
    std::vector<uint8_t> all(bytes() + 2 * kGuardBytes);
    DGA_CUDA_CHECK(cudaMemcpy(all.data(), memory_, all.size(), cudaMemcpyDeviceToHost));
    const auto intact = [](uint8_t byte) { return byte == 0xff; };
    return std::all_of(all.begin(), all.begin() + kGuardBytes, intact) &&
           std::all_of(all.begin() + kGuardBytes + static_cast<int64_t>(count_ * sizeof(T)), all.end(), intact);
  }

 private:
  static constexpr int64_t kGuardBytes = 4096;
  size_t bytes() const { return (count_ * sizeof(T) + 255) / 256 * 256; }

  size_t count_;
  char* memory_ = nullptr;
};

}  // namespace dga::kernels::testing

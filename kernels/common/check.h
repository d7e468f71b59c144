#pragma once

#include <cuda_runtime.h>

#include <sstream>
#include <stdexcept>

namespace dga::kernels {

/// Throws std::runtime_error with the place, the call and CUDA's own text; used through DGA_CUDA_CHECK.
[[noreturn]] inline void throw_cuda_error(cudaError_t error, const char* call, const char* file, int line) {
  std::ostringstream message;
  message << file << ":" << line << ": " << call << ": " << cudaGetErrorName(error) << ": "
          << cudaGetErrorString(error);
  throw std::runtime_error(message.str());
}

}  // namespace dga::kernels

/// Runs a CUDA runtime call and throws where it fails. A kernel launch is checked with
/// DGA_CUDA_CHECK(cudaGetLastError()) on the next line.
#define DGA_CUDA_CHECK(call)                                                       \
  do {                                                                             \
    const cudaError_t dga_cuda_error = (call);                                     \
    if (dga_cuda_error != cudaSuccess) {                                           \
      ::dga::kernels::throw_cuda_error(dga_cuda_error, #call, __FILE__, __LINE__); \
    }                                                                              \
  } while (false)

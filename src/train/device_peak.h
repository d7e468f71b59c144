#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <string>

namespace dga {

/// Dense bf16 peak in FLOP/s of a GPU by the name that the driver gives it; nothing for devices not in the table.
std::optional<double> peak_flops(const std::string& device_name);

/// The GPU's name, or "cpu".
std::string device_name(at::Device device);

/// Highest memory use so far in bytes: of LibTorch's allocator on a GPU, of the process (resident set) on a CPU.
int64_t peak_memory_bytes(at::Device device);

}  // namespace dga

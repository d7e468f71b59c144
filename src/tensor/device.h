#pragma once

#include <c10/core/Device.h>

#include <string>

namespace dga {

/// The device that `name` ("auto", "cpu" or "cuda") stands for: auto is the first GPU where there is one, else the CPU.
/// Throws a config error when CUDA is asked for and this build or machine has none.
c10::Device select_device(const std::string& name);

}  // namespace dga

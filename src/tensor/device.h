#pragma once

#include <c10/core/Device.h>

#include <string>

namespace dga {

/// The device that `name` ("auto", "cpu" or "cuda") stands for: auto is the first GPU where there is one that this
/// binary has kernels for, else the CPU. Throws a config error when CUDA is asked for and there is no such GPU.
c10::Device select_device(const std::string& name);

}  // namespace dga

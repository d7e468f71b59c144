#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <string>

namespace dga {

/// The device that `name` ("auto", "cpu" or "cuda") stands for in the process number `local_rank` of this host: auto is
/// the GPU of that number (or the only one that the process sees) where there are any that this binary has kernels for,
/// else the CPU. The GPU becomes the calling thread's current device. Throws a config error when CUDA is asked for and
/// there is no such GPU, or when there are fewer GPUs than processes.
c10::Device select_device(const std::string& name, int64_t local_rank = 0);

/// An int64 tensor on the host to be filled and sent to `device` by send(): in pinned memory where that is a GPU.
at::Tensor staging_tensor(at::IntArrayRef shape, c10::Device device);

/// `staged` on `device`. The copy is queued like any other work of the GPU; the host does not wait for it.
at::Tensor send(const at::Tensor& staged, c10::Device device);

}  // namespace dga

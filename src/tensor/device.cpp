#include "tensor/device.h"

#include <ATen/ATen.h>
#include <c10/core/AllocatorConfig.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstdlib>

#include "kernels/common/device.h"
#include "util/error.h"
#include "util/log.h"

namespace dga {
namespace {

/// A GPU's memory in segments that grow leaves no gaps between tensors of many sizes, which at long contexts cost
/// gigabytes. The environment may say otherwise, as in PyTorch.
void use_growing_segments() {
  if (std::getenv("PYTORCH_CUDA_ALLOC_CONF") != nullptr || std::getenv("PYTORCH_ALLOC_CONF") != nullptr) return;
  c10::CachingAllocator::setAllocatorSettings("expandable_segments:True");
}

/// The number of the GPU for this process; launchers may show each process only its own.
int choose_gpu(int64_t local_rank) {
  const int64_t count = at::detail::getCUDAHooks().deviceCount();
  if (count == 1) return 0;
  if (local_rank >= count) {
    fail(ExitCode::config, "LOCAL_RANK: process ", local_rank, " of this host has no GPU, since there are ", count,
         "; start one process for each, or choose run.device: cpu");
  }
  return static_cast<int>(local_rank);
}

c10::Device use_gpu(int index) {
  use_growing_segments();
  const c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
  c10::impl::VirtualGuardImpl(c10::kCUDA).setDevice(device);
  return device;
}

}  // namespace

c10::Device select_device(const std::string& name, int64_t local_rank) {
  if (name == "cpu") return {c10::kCPU};
  if (name != "auto" && name != "cuda") {
    fail(ExitCode::config, "device ", name, ": unknown; one of auto, cpu, cuda");
  }
  // Without libtorch_cuda in the process hasCUDA() is false, whatever the machine has.
  if (at::hasCUDA()) {
    const int index = choose_gpu(local_rank);
    if (kernels::device_has_code(index)) return use_gpu(index);
    const std::string reason =
        str("this binary's kernels are compiled for the architectures ", kernels::compiled_architectures(),
            ", not for the GPU of this machine (see dga info)");
    if (name == "cuda") fail(ExitCode::config, "device cuda: ", reason);
    log::warning(reason, "; using the CPU");
  }
  if (name == "cuda") {
    fail(ExitCode::config, "device cuda: no GPU is usable; `dga info` says what this build and machine have");
  }
  return {c10::kCPU};
}

at::Tensor staging_tensor(at::IntArrayRef shape, c10::Device device) {
  return at::empty(shape, at::TensorOptions(at::kLong).pinned_memory(device.is_cuda()));
}

at::Tensor send(const at::Tensor& staged, c10::Device device) { return staged.to(device, /*non_blocking=*/true); }

}  // namespace dga

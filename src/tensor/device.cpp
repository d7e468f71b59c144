#include "tensor/device.h"

#include <ATen/ATen.h>
#include <c10/core/AllocatorConfig.h>

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

}  // namespace

c10::Device select_device(const std::string& name) {
  if (name == "cpu") return {c10::kCPU};
  if (name != "auto" && name != "cuda") {
    fail(ExitCode::config, "device ", name, ": unknown; one of auto, cpu, cuda");
  }
  // Without libtorch_cuda in the process hasCUDA() is false, whatever the machine has.
  if (at::hasCUDA()) {
    if (kernels::device_has_code(0)) {
      use_growing_segments();
      return {c10::kCUDA, 0};
    }
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

#include "tensor/device.h"

#include <ATen/Context.h>

#include "util/error.h"

namespace dga {

c10::Device select_device(const std::string& name) {
  if (name == "cpu") return {c10::kCPU};
  if (name != "auto" && name != "cuda") {
    fail(ExitCode::config, "device ", name, ": unknown; one of auto, cpu, cuda");
  }
  // Without libtorch_cuda in the process hasCUDA() is false, whatever the machine has.
  if (at::hasCUDA()) return {c10::kCUDA, 0};
  if (name == "cuda") {
    fail(ExitCode::config, "device cuda: no GPU is usable; `dga info` says what this build and machine have");
  }
  return {c10::kCPU};
}

}  // namespace dga

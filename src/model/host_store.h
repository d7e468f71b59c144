#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <optional>
#include <vector>

namespace dga {

/// Tensors that wait in pinned host memory, on a stack: the last one put is taken first, as a backward pass does. They
/// are copied on a stream of their own while the GPU computes, there and, one ahead of its use, back again. The host
/// never waits. Without `offload`, and for tensors on a CPU, it holds the tensors themselves.
///
/// On the device two tensors exist at a time beside the one in use: the last one put stays until the next has come, and
/// in the backward pass the one that will be taken next is on its way.
class HostStore {
 public:
  explicit HostStore(bool offload) : offload_(offload) {}
  HostStore(const HostStore&) = delete;
  HostStore& operator=(const HostStore&) = delete;
  ~HostStore();

  /// Keeps x, which must not change any more. Returns its slot.
  size_t put(const at::Tensor& x);
  /// The tensor of `slot`, once; later work on the current stream sees it whole. Throws if it was taken before.
  at::Tensor take(size_t slot);

 private:
  struct Slot {
    at::Tensor device;                 // defined while the tensor is there, or on its way back
    at::Tensor host;                   // pinned
    std::optional<c10::Event> copied;  // behind the copy that was started last, either way
  };
  void fetch(Slot& slot);
  c10::Stream copy_stream(at::Device device);

  bool offload_;
  std::vector<Slot> slots_;
  std::optional<c10::Stream> copy_stream_;
};

}  // namespace dga

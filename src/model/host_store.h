#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <optional>
#include <vector>

namespace dga {

/// Groups of tensors that wait in pinned host memory, on a stack: the last one put is taken first, as a backward pass
/// does. They are copied on a stream of their own while the GPU computes, there and, one group ahead of its use, back
/// again. The host never waits. Without `offload`, and for tensors on a CPU, it holds the tensors themselves.
///
/// On the device two groups exist at a time beside the one in use: the last one put stays until the next has come, and
/// in the backward pass the one that will be taken next is on its way.
class HostStore {
 public:
  explicit HostStore(bool offload) : offload_(offload) {}
  HostStore(const HostStore&) = delete;
  HostStore& operator=(const HostStore&) = delete;
  ~HostStore();

  /// Keeps tensors of one device, which must not change any more; undefined ones stay undefined. Returns their slot.
  size_t put(std::vector<at::Tensor> tensors);
  /// The tensors of `slot`, once; later work on the current stream sees them whole. Throws if they were taken before.
  std::vector<at::Tensor> take(size_t slot);

 private:
  enum class Place { device, host, nowhere };
  struct Slot {
    Place place = Place::device;       // device: there, or on the way back
    std::vector<at::Tensor> device;    // empty where the place is another
    std::vector<at::Tensor> host;      // pinned; empty where nothing was copied
    std::optional<c10::Event> copied;  // behind the copies that were started last, either way
  };
  void fetch(Slot& slot);
  c10::Stream copy_stream(at::Device device);

  bool offload_;
  std::vector<Slot> slots_;
  std::optional<c10::Stream> copy_stream_;
};

}  // namespace dga

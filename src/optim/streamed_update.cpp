#include "optim/streamed_update.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

namespace dga {
namespace {

/// The tensors of a range that live on the host.
std::vector<at::Tensor*> host_state(AdamWRange& range) {
  std::vector<at::Tensor*> state = {&range.weight_low, &range.exp_avg.numbers, &range.exp_avg.scales,
                                    &range.exp_avg_sq.numbers, &range.exp_avg_sq.scales};
  std::erase_if(state, [](const at::Tensor* tensor) { return !tensor->defined(); });
  return state;
}

c10::Event record(const c10::Stream& stream) {
  c10::Event event(stream.device_type());
  event.record(stream);
  return event;
}

/// Device memory for one piece's state, used again when that has gone back.
struct Slot {
  std::vector<at::Tensor> memory;      // as host_state() of the largest piece
  std::optional<c10::Event> returned;  // behind the copies back to the host
};

/// A piece of `host` with its state in the slot's memory, which is made for pieces of `largest` numbers.
AdamWRange on_device(const AdamWRange& host, Slot& slot, int64_t largest) {
  AdamWRange piece = host;
  const std::vector<at::Tensor*> state = host_state(piece);
  for (size_t i = 0; i < state.size(); ++i) {
    if (slot.memory.size() == i) {
      const auto options = state[i]->options().device(host.weight.device()).pinned_memory(false);
      slot.memory.push_back(at::empty({state[i]->size(0) * largest / host.weight.numel()}, options));
    }
    *state[i] = slot.memory[i].narrow(0, 0, state[i]->size(0));
  }
  return piece;
}

void copy_state(AdamWRange from, AdamWRange to, const c10::Stream& stream) {
  const c10::StreamGuard guard(stream);
  const std::vector<at::Tensor*> sources = host_state(from), targets = host_state(to);
  for (size_t i = 0; i < sources.size(); ++i) targets[i]->copy_(*sources[i], /*non_blocking=*/true);
}

}  // namespace

void streamed_adamw_update(const std::vector<AdamWRange>& ranges, const AdamWStep& step,
                           const std::function<void(size_t)>& updated, int64_t piece_numbers) {
  if (ranges.empty()) return;
  const at::NoGradGuard no_grad;
  const at::Device device = ranges.front().weight.device();
  const c10::impl::VirtualGuardImpl streams(device.type());
  const c10::Stream compute = streams.getStream(device);
  const c10::Stream inwards = streams.getStreamFromGlobalPool(device, /*isHighPriority=*/false);
  const c10::Stream outwards = streams.getStreamFromGlobalPool(device, /*isHighPriority=*/false);
  // The state's last way back, and earlier users of the slots' memory, are part of the compute stream's past.
  record(compute).block(inwards);
  int64_t largest = 0;
  for (const AdamWRange& range : ranges) largest = std::max(largest, std::min(range.weight.numel(), piece_numbers));
  std::array<Slot, kStreamedPieces> slots;
  size_t index = 0;
  for (size_t i = 0; i < ranges.size(); ++i) {
    const int64_t count = ranges[i].weight.numel();
    for (int64_t begin = 0; begin < count; begin += piece_numbers, ++index) {
      Slot& slot = slots[index % slots.size()];
      const AdamWRange host = ranges[i].slice(begin, std::min(count, begin + piece_numbers));
      const AdamWRange piece = on_device(host, slot, largest);
      if (slot.returned) slot.returned->block(inwards);
      copy_state(host, piece, inwards);
      record(inwards).block(compute);
      adamw_update(piece, step);
      record(compute).block(outwards);
      copy_state(piece, host, outwards);
      slot.returned = record(outwards);
    }
    updated(i);
  }
  for (const Slot& slot : slots) {
    if (slot.returned) slot.returned->block(compute);
  }
}

}  // namespace dga

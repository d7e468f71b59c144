#include "model/host_store.h"

#include <ATen/ATen.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "util/error.h"

namespace dga {
namespace {

c10::Stream current_stream(at::Device device) { return c10::impl::VirtualGuardImpl(device.type()).getStream(device); }

c10::Event record(const c10::Stream& stream) {
  c10::Event event(stream.device_type());
  event.record(stream);
  return event;
}

}  // namespace

c10::Stream HostStore::copy_stream(at::Device device) {
  if (!copy_stream_) {
    copy_stream_ = c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device, /*isHighPriority=*/false);
  }
  return *copy_stream_;
}

HostStore::~HostStore() {
  // What is left over, as after an exception, must not be freed under a copy.
  for (const Slot& slot : slots_) {
    if (slot.copied && slot.device.defined()) slot.copied->block(current_stream(slot.device.device()));
  }
}

size_t HostStore::put(const at::Tensor& x) {
  slots_.emplace_back();
  Slot& slot = slots_.back();
  slot.device = x;
  if (!offload_ || x.is_cpu()) return slots_.size() - 1;
  const c10::Stream compute = current_stream(x.device()), copies = copy_stream(x.device());
  if (slots_.size() > 1) {  // the one before has most likely arrived by now; its memory is free behind this point
    Slot& before = slots_[slots_.size() - 2];
    before.copied->block(compute);
    before.device.reset();
  }
  record(compute).block(copies);
  slot.host = at::empty(x.sizes(), x.options().device(at::kCPU).pinned_memory(true).requires_grad(false));
  {
    const c10::StreamGuard guard(copies);
    slot.host.copy_(x, /*non_blocking=*/true);
  }
  slot.copied = record(copies);
  return slots_.size() - 1;
}

void HostStore::fetch(Slot& slot) {
  if (slot.device.defined() || !slot.host.defined()) return;
  // Memory of the compute stream, whose earlier work may still use it: so the copy waits for that.
  slot.device = at::empty(slot.host.sizes(), slot.host.options().device(copy_stream_->device()).pinned_memory(false));
  record(current_stream(slot.device.device())).block(*copy_stream_);
  {
    const c10::StreamGuard guard(*copy_stream_);
    slot.device.copy_(slot.host, /*non_blocking=*/true);
  }
  slot.copied = record(*copy_stream_);
}

at::Tensor HostStore::take(size_t slot) {
  Slot& wanted = slots_[slot];
  fetch(wanted);
  DGA_CHECK(wanted.device.defined(), "the input of a recomputed layer was taken before: its backward ran twice");
  if (slot > 0) fetch(slots_[slot - 1]);
  const at::Tensor result = wanted.device;
  if (wanted.copied) wanted.copied->block(current_stream(result.device()));
  wanted = {};
  return result;
}

}  // namespace dga

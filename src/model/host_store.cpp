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

/// Starts copies of the tensors on `stream` into memory that `allocate` makes.
template <class Allocate>
std::vector<at::Tensor> copies_of(const std::vector<at::Tensor>& from, const c10::Stream& stream,
                                  const Allocate& allocate) {
  std::vector<at::Tensor> to;
  for (const at::Tensor& tensor : from) to.push_back(tensor.defined() ? allocate(tensor) : tensor);
  record(current_stream(stream.device())).block(stream);  // their content, and what used the new memory before
  const c10::StreamGuard guard(stream);
  for (size_t i = 0; i < from.size(); ++i) {
    if (from[i].defined()) to[i].copy_(from[i], /*non_blocking=*/true);
  }
  return to;
}

}  // namespace

HostStore::~HostStore() {
  // What is left over, as after an exception, must not be freed under a copy.
  for (const Slot& slot : slots_) {
    if (slot.copied && !slot.device.empty()) slot.copied->block(current_stream(copy_stream_->device()));
  }
}

c10::Stream HostStore::copy_stream(at::Device device) {
  if (!copy_stream_) {
    copy_stream_ = c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device, /*isHighPriority=*/false);
  }
  return *copy_stream_;
}

size_t HostStore::put(std::vector<at::Tensor> tensors) {
  const at::Device device = tensors.at(0).device();
  slots_.emplace_back();
  Slot& slot = slots_.back();
  slot.device = std::move(tensors);
  if (!offload_ || device.is_cpu()) return slots_.size() - 1;
  if (slots_.size() > 1) {  // the one before has most likely arrived by now; its memory is free behind this point
    Slot& before = slots_[slots_.size() - 2];
    before.copied->block(current_stream(device));
    before.device.clear();
    before.place = Place::host;
  }
  slot.host = copies_of(slot.device, copy_stream(device), [](const at::Tensor& t) {
    return at::empty(t.sizes(), t.options().device(at::kCPU).pinned_memory(true));
  });
  slot.copied = record(*copy_stream_);
  return slots_.size() - 1;
}

void HostStore::fetch(Slot& slot) {
  if (slot.place != Place::host) return;
  slot.device = copies_of(slot.host, *copy_stream_, [this](const at::Tensor& t) {
    return at::empty(t.sizes(), t.options().device(copy_stream_->device()).pinned_memory(false));
  });
  slot.copied = record(*copy_stream_);
  slot.place = Place::device;
}

std::vector<at::Tensor> HostStore::take(size_t slot) {
  Slot& wanted = slots_[slot];
  DGA_CHECK(wanted.place != Place::nowhere, "what a recomputed layer kept was taken before: its backward ran twice");
  fetch(wanted);
  if (slot > 0) fetch(slots_[slot - 1]);
  if (wanted.copied) wanted.copied->block(current_stream(copy_stream_->device()));
  std::vector<at::Tensor> result = std::move(wanted.device);
  wanted = {};
  wanted.place = Place::nowhere;
  return result;
}

}  // namespace dga

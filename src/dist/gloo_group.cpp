#include "dist/gloo_group.h"

#include <ATen/ATen.h>

#include <cstring>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "dist/gloo_device.h"
#include "dist/rank_group.h"
#include "dist/reduce_parts.h"

namespace dga {
namespace {

/// Below this many bytes from all ranks together, every rank gathers all of them: one exchange instead of two.
constexpr int64_t kGatherBytes = 1 << 20;
/// Beyond the watch's own limit, which can say who is late.
constexpr auto kExtraTime = std::chrono::minutes(2);

/// The memory of a contiguous tensor.
at::Tensor bytes_of(const at::Tensor& tensor) {
  return at::from_blob(tensor.data_ptr(), {static_cast<int64_t>(tensor.nbytes())}, at::kByte);
}

void copy_bytes(const at::Tensor& to, const at::Tensor& from, size_t bytes) {
  std::memcpy(to.data_ptr(), from.data_ptr(), bytes);
}

}  // namespace

GlooGroup::GlooGroup(RankGroup& ranks) : world_size_(ranks.world_size()) {
  using c10d::ProcessGroupGloo;
  const GlooInterface interface = choose_gloo_interface(ranks.place());
  const auto options = ProcessGroupGloo::Options::create(ranks.watch()->limit() + kExtraTime);
  options->devices.push_back(interface.name.empty() ? ProcessGroupGloo::createDeviceForHostname(interface.address)
                                                    : ProcessGroupGloo::createDeviceForInterface(interface.name));
  options->threads = 1;
  const auto store = c10::make_intrusive<c10d::PrefixStore>("gloo", ranks.store().connect_again()->store());
  group_ = c10::make_intrusive<ProcessGroupGloo>(store, static_cast<int>(ranks.rank()), static_cast<int>(world_size_),
                                                 options);
}

GlooGroup::~GlooGroup() = default;

void GlooGroup::all_reduce(const at::Tensor& numbers, Reduction reduction) {
  const int64_t count = numbers.numel();
  const size_t bytes = numbers.nbytes();
  if (static_cast<int64_t>(bytes) * world_size_ <= kGatherBytes) {
    const at::Tensor parts = at::empty({world_size_, count}, numbers.options());
    all_gather(parts, numbers);
    reduce_parts(parts, numbers, reduction);
    return;
  }
  const int64_t part = (count + world_size_ - 1) / world_size_;
  const bool even = part * world_size_ == count;
  const at::Tensor whole = even ? numbers.view({-1}) : at::zeros({part * world_size_}, numbers.options());
  if (!even) copy_bytes(whole, numbers, bytes);
  const at::Tensor own = at::empty({part}, numbers.options());
  combine_parts(own, whole, reduction);
  all_gather(whole, own);
  if (!even) copy_bytes(numbers, whole, bytes);
}

void GlooGroup::reduce_scatter(const at::Tensor& output, const at::Tensor& input) {
  combine_parts(output, input, Reduction::sum);
}

void GlooGroup::all_gather(const at::Tensor& output, const at::Tensor& input) {
  const auto* begin = static_cast<const char*>(output.data_ptr());
  const auto* from = static_cast<const char*>(input.data_ptr());
  at::Tensor apart = input;
  if (from >= begin && from < begin + output.nbytes()) {
    apart = at::empty_like(input);
    copy_bytes(apart, input, input.nbytes());
  }
  at::Tensor source = bytes_of(apart), target = bytes_of(output);
  group_->_allgather_base(target, source)->wait();
}

void GlooGroup::combine_parts(const at::Tensor& output, const at::Tensor& input, Reduction reduction) {
  const at::Tensor parts = at::empty({world_size_, output.numel()}, input.options());
  at::Tensor source = bytes_of(input), target = bytes_of(parts);
  std::vector<int64_t> even;
  group_->alltoall_base(target, source, even, even)->wait();
  reduce_parts(parts, output, reduction);
}

}  // namespace dga

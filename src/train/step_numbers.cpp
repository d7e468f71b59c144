#include "train/step_numbers.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <csignal>

namespace dga {

at::Tensor StepNumbers::pack(const RankNumbers& own, at::Device device) const {
  const at::Tensor host =
      at::zeros({ranks_ + kSharedCount}, at::TensorOptions(at::kDouble).pinned_memory(device.is_cuda()));
  auto* memory = host.mutable_data_ptr<double>();
  memory[rank_] = static_cast<double>(own.memory_bytes);
  double* shared = memory + ranks_;
  shared[kLabels] = static_cast<double>(own.labels);
  shared[kFlops] = own.flops;
  shared[kInterrupts] = own.stop_signal == SIGINT ? 1 : 0;
  shared[kTerminations] = own.stop_signal == SIGTERM ? 1 : 0;
  const auto zeros = [&](int64_t count) {
    return at::zeros({count * micro_batches_}, at::TensorOptions(at::kDouble).device(device));
  };
  return at::cat({at::stack(own.nll_sums), zeros(rank_), at::stack(own.loss_sums), zeros(ranks_ - rank_ - 1),
                  host.to(device, /*non_blocking=*/true)});
}

void StepNumbers::write_to(StepRecord& record, const at::Tensor& summed) const {
  const auto number = [&](int64_t at_place) { return summed[at_place].item<double>(); };
  const double labels = number(shared_at() + kLabels), divisor = std::max(labels, 1.0);
  record.labels = static_cast<int64_t>(labels);
  record.loss = summed.narrow(0, 0, micro_batches_).sum().item<double>() / divisor;
  record.z_loss = summed.narrow(0, losses_at(), ranks_ * micro_batches_).sum().item<double>() / divisor - record.loss;
  record.flops = number(shared_at() + kFlops);
  const double memory = summed.narrow(0, memory_at(), ranks_).max().item<double>();
  record.memory_bytes = std::max(record.memory_bytes, static_cast<int64_t>(memory));
  record.grad_norm = number(norm_at());
}

int StepNumbers::stop_signal(const at::Tensor& summed) const {
  if (summed[shared_at() + kInterrupts].item<double>() > 0) return SIGINT;
  return summed[shared_at() + kTerminations].item<double>() > 0 ? SIGTERM : 0;
}

std::optional<StepNumbers::BadLoss> StepNumbers::bad_loss(const at::Tensor& summed) const {
  const auto of_rank = [&](int64_t rank) -> std::optional<BadLoss> {
    for (int64_t i = 0; i < micro_batches_; ++i) {
      const double value = summed[losses_at() + rank * micro_batches_ + i].item<double>();
      if (!std::isfinite(value)) return BadLoss{rank, i, value};
    }
    return std::nullopt;
  };
  if (const auto own = of_rank(rank_)) return own;
  for (int64_t rank = 0; rank < ranks_; ++rank) {
    if (const auto bad = of_rank(rank)) return bad;
  }
  return std::nullopt;
}

}  // namespace dga

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "dist/communicator.h"
#include "train/step_record.h"

namespace dga {

/// What one rank knows of a step that the others need.
struct RankNumbers {
  std::vector<at::Tensor> nll_sums, loss_sums;  // float64 scalars on the device, one for each micro-batch
  int64_t labels = 0;
  double flops = 0;
  int64_t memory_bytes = 0;  // highest so far
  int stop_signal = 0;       // that has arrived: SIGINT, SIGTERM or 0
};

/// How the numbers of a step lie in one float64 tensor that is summed over the ranks: what is of one rank alone stands
/// at that rank's place, where the others have zero.
class StepNumbers {
 public:
  StepNumbers(int64_t micro_batches, const Communicator& ranks)
      : micro_batches_(micro_batches), rank_(ranks.rank()), ranks_(ranks.world_size()) {}

  /// This rank's summand, on the device; the host waits for nothing.
  at::Tensor pack(const RankNumbers& own, at::Device device) const;

  /// Of the sum over the ranks with the gradient norm behind it (AdamW::measure_gradients), on the host: loss, z-loss,
  /// norm, labels, FLOPs and memory of all ranks.
  void write_to(StepRecord& record, const at::Tensor& summed) const;
  /// The signal that has reached any of the ranks, or 0.
  int stop_signal(const at::Tensor& summed) const;

  /// A micro-batch whose loss is not finite.
  struct BadLoss {
    int64_t rank = 0, micro_batch = 0;
    double value = 0;
  };
  /// One of this rank if it has any, else the first; nothing where all are finite.
  std::optional<BadLoss> bad_loss(const at::Tensor& summed) const;

 private:
  enum Shared { kLabels, kFlops, kInterrupts, kTerminations, kSharedCount };

  int64_t losses_at() const { return micro_batches_; }
  int64_t memory_at() const { return losses_at() + ranks_ * micro_batches_; }
  int64_t shared_at() const { return memory_at() + ranks_; }
  int64_t norm_at() const { return shared_at() + kSharedCount; }

  int64_t micro_batches_, rank_, ranks_;
};

}  // namespace dga

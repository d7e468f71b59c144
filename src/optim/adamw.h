#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "dist/communicator.h"
#include "ops/adamw.h"
#include "optim/config.h"
#include "optim/data_parallel.h"
#include "optim/flat_layout.h"
#include "optim/gradient_reduction.h"
#include "optim/optimizer_state.h"
#include "optim/rank_share.h"

namespace dga {

/// AdamW (Loshchilov and Hutter 2019) in PyTorch's form over flat parameters. The parameters' storage moves into one
/// flat tensor and their gradients go to another as backward() makes them. bf16 weights have exact fp32 masters, kept
/// as the weight and 16 more bits. Bytes a parameter: 4 (fp32 weights) or 2 + 2, moments 8, 4 or 2, gradient 2 or 4.
/// Several ranks have the same weights and sum their gradients; what they shard, each of them holds 1/ranks of.
class AdamW {
 public:
  /// `seed` is of the stochastic rounding of moments below fp32. Throws where parameters differ in type or device.
  AdamW(const OptimizerConfig& config, uint64_t seed, std::vector<TrainedParameter> parameters, GradientSum sum,
        const DataParallel& parallel = {});

  /// Before every backward pass of a step; one rank may leave it out.
  void begin_backward(BackwardPass pass) { gradients_->begin(pass); }
  /// After a step's last backward pass: sums what is not summed over the ranks yet. The host does not wait.
  void reduce_gradients() { gradients_->finish(); }
  /// Bytes that this rank gave to the reductions of the step.
  int64_t reduced_bytes() const { return gradients_->reduced_bytes(); }
  /// `sums` [k] float64 on the parameters' device summed over the ranks, and behind them the norm of the step's summed
  /// gradients over all parameters: [k + 1]. The host does not wait. A norm or a sum that is not finite makes this and
  /// every later update do nothing, on all ranks.
  at::Tensor measure_gradients(const at::Tensor& sums);
  /// One update with the summed gradients, clipped by the norm that was measured; then the sums are empty again. Each
  /// rank updates what it holds. Where that is not everything, the others' weights are on their way until
  /// wait_for_weights().
  void update(double learning_rate);
  /// After this, later work of the current stream (on a CPU: the caller) finds the first `count` parameters updated.
  /// They arrive in the order of a forward pass: norms and embedding, then layer by layer.
  void wait_for_weights(size_t count = std::numeric_limits<size_t>::max());
  /// Drops the summed gradients without an update.
  void discard_gradients();

  /// Updates made so far.
  int64_t updates() const { return updates_; }
  const FlatLayout& layout() const { return layout_; }
  /// The live tensors.
  const OptimizerState& state() const { return state_; }
  /// The pieces of parameters that this rank answers for, by parameter and place; over all ranks every number once.
  /// With one rank: whole parameters. Their tensors are of `state`, which is state() or a copy of it.
  std::vector<StatePiece> owned_pieces(const OptimizerState& state) const;
  /// The summed gradient of a parameter (by its index), for tests and tools.
  const at::Tensor& gradient(size_t parameter) const { return gradients_->sink(parameter).sum; }
  /// Takes over what the checkpoint of an earlier run holds, of any number of ranks: for each parameter the tensors
  /// that StatePiece names, whole. Throws an input error naming a missing tensor, or one of another shape or type.
  void restore(const SavedTensors& saved, int64_t updates);

 private:
  void move_parameters();
  void make_state();
  void update_ranges(const std::vector<HeldRange>& ranges, const AdamWStep& step);
  AdamWRange range(const HeldRange& held) const;
  void gather_weights(const HeldRange& part);

  OptimizerConfig config_;
  uint64_t seed_;
  bool on_host_ = false;                  // the state, while the weights are on a GPU
  std::unique_ptr<Communicator> single_;  // where there are no other ranks
  Communicator& ranks_;
  std::vector<TrainedParameter> parameters_;
  GradientPlan plan_;
  FlatLayout layout_;
  RankShare share_;
  std::unique_ptr<GradientReduction> gradients_;
  OptimizerState state_;
  struct Gather {
    size_t earliest;  // of its parameters
    std::unique_ptr<PendingCollective> pending;
  };
  std::vector<Gather> gathers_;  // of updated weights, in the order in which they began
  at::Tensor clip_factor_;       // of the step's gradient, on the device
  at::Tensor stop_;              // int32 scalar on the device
  int64_t updates_ = 0;
};

}  // namespace dga

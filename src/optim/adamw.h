#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "ops/adamw.h"
#include "ops/gradient_sink.h"
#include "optim/config.h"
#include "optim/flat_layout.h"
#include "optim/optimizer_state.h"

namespace dga {

/// How the gradients of a step's micro-batches add up.
enum class GradientSum { as_weights, fp32 };

/// AdamW (Loshchilov and Hutter 2019) in PyTorch's form over flat parameters. The parameters' storage moves into one
/// flat tensor and their gradients go to another as backward() makes them. bf16 weights have exact fp32 masters, kept
/// as the weight and 16 more bits. Bytes a parameter: 4 (fp32 weights) or 2 + 2, moments 8, 4 or 2, gradient 2 or 4.
class AdamW {
 public:
  /// `seed` is of the stochastic rounding of moments below fp32. Throws where parameters differ in type or device.
  AdamW(const OptimizerConfig& config, uint64_t seed, std::vector<TrainedParameter> parameters, GradientSum sum);
  ~AdamW();
  AdamW(const AdamW&) = delete;
  AdamW& operator=(const AdamW&) = delete;

  /// Norm of the step's summed gradients over all parameters, on the parameters' device (the host does not wait). A
  /// norm or a loss (`losses` [k] float64) that is not finite makes this and every later update do nothing.
  at::Tensor measure_gradients(const at::Tensor& losses);
  /// One update with the summed gradients, clipped by the norm that was measured; then the sums are empty again.
  void update(double learning_rate);
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
  const at::Tensor& gradient(size_t parameter) const { return sinks_[parameter]->sum; }
  /// Takes over what the checkpoint of an earlier run holds, of any number of ranks: for each parameter the tensors
  /// that StatePiece names, whole. Throws an input error naming a missing tensor, or one of another shape or type.
  void restore(const SavedTensors& saved, int64_t updates);

 private:
  void move_parameters();
  void make_state();
  void update_range(FlatRange numbers, const AdamWStep& step) const;
  void fill_empty_gradients();
  AdamWRange range(FlatRange numbers) const;

  OptimizerConfig config_;
  uint64_t seed_;
  bool on_host_ = false;  // the state, while the weights are on a GPU
  std::vector<TrainedParameter> parameters_;
  FlatLayout layout_;
  RankShare share_;
  at::Tensor gradients_;                              // [size]
  std::vector<std::shared_ptr<GradientSink>> sinks_;  // one for each parameter, views of gradients_
  OptimizerState state_;
  at::Tensor clip_factor_;  // of the step's gradient, on the device
  at::Tensor stop_;         // int32 scalar on the device
  int64_t updates_ = 0;
};

}  // namespace dga

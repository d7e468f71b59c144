#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "optim/config.h"

namespace dga {

/// A parameter that training changes, under its Hugging Face name.
struct TrainedParameter {
  std::string name;
  at::Tensor value;
};

/// Whether weight decay applies: not to vectors (norms) and token embeddings unless the config says so. A tied output
/// weight is the embedding.
bool is_decayed(const OptimizerConfig& config, const TrainedParameter& parameter);

/// AdamW (Loshchilov and Hutter 2019) in PyTorch's form. Parameters below fp32 have an fp32 master copy, which is what
/// the update changes, and an fp32 sum of their micro-batches' gradients.
class AdamW {
 public:
  AdamW(const OptimizerConfig& config, std::vector<TrainedParameter> parameters);

  /// Takes the gradients that backward() left in the parameters into the step's sum. Call after every backward().
  void accumulate_gradients();
  /// Norm of the step's summed gradients over all parameters.
  double gradient_norm() const;
  /// One update with the summed gradients times `gradient_factor` (of clipping); then the sums are empty again.
  void update(double learning_rate, double gradient_factor);
  /// Drops the summed gradients without an update.
  void discard_gradients();

  /// Updates made so far.
  int64_t updates() const { return updates_; }
  /// All state beside the weights: "exp_avg.<name>", "exp_avg_sq.<name>" and, where there is one, "master.<name>".
  /// The tensors are the live ones.
  std::map<std::string, at::Tensor> state() const;
  /// Takes the values of state() of an earlier run over. Throws an input error naming a missing or misshapen tensor.
  void restore(const std::map<std::string, at::Tensor>& state, int64_t updates);

 private:
  struct Group {
    double weight_decay = 0;
    std::vector<size_t> members;  // indices into parameters_
  };
  void update_group(const Group& group, double learning_rate, const at::Tensor& gradient_divisor);

  OptimizerConfig config_;
  std::vector<TrainedParameter> parameters_;
  std::vector<at::Tensor> weights_;    // what the update changes: the parameter itself or its fp32 master
  std::vector<at::Tensor> gradients_;  // the step's sums; undefined where no gradient arrived yet
  std::vector<at::Tensor> exp_avg_;
  std::vector<at::Tensor> exp_avg_sq_;
  std::vector<Group> groups_;
  int64_t updates_ = 0;
};

}  // namespace dga

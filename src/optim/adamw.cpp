#include "optim/adamw.h"

#include <ATen/ATen.h>

#include <utility>

#include "optim/gradients.h"
#include "util/error.h"

namespace dga {
namespace {

bool needs_master(const at::Tensor& parameter) {
  return parameter.scalar_type() != at::kFloat && parameter.scalar_type() != at::kDouble;
}

void copy_checked(const std::string& name, const std::map<std::string, at::Tensor>& from, at::Tensor to) {
  const auto found = from.find(name);
  DGA_CHECK_INPUT(found != from.end(), "optimizer state lacks tensor ", name);
  DGA_CHECK_INPUT(found->second.sizes() == to.sizes(), "optimizer state ", name, " has shape ", found->second.sizes(),
                  ", the parameter ", to.sizes());
  to.copy_(found->second);
}

}  // namespace

bool is_decayed(const OptimizerConfig& config, const TrainedParameter& parameter) {
  if (config.decay_norms_and_embeddings) return true;
  return parameter.value.dim() > 1 && !parameter.name.ends_with("embed_tokens.weight");
}

AdamW::AdamW(const OptimizerConfig& config, std::vector<TrainedParameter> parameters)
    : config_(config), parameters_(std::move(parameters)), gradients_(parameters_.size()) {
  const at::NoGradGuard no_grad;
  Group decayed{config.weight_decay, {}};
  Group undecayed{0.0, {}};
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const at::Tensor& value = parameters_[i].value;
    weights_.push_back(needs_master(value) ? value.to(at::kFloat) : value.detach());
    exp_avg_.push_back(at::zeros_like(weights_[i]));
    exp_avg_sq_.push_back(at::zeros_like(weights_[i]));
    (is_decayed(config, parameters_[i]) ? decayed : undecayed).members.push_back(i);
  }
  groups_ = {decayed, undecayed};
}

void AdamW::accumulate_gradients() {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    at::Tensor& arrived = parameters_[i].value.mutable_grad();
    if (!arrived.defined()) continue;
    if (gradients_[i].defined()) {
      gradients_[i].add_(arrived);
    } else {
      gradients_[i] = arrived.to(weights_[i].scalar_type());
    }
    arrived.reset();
  }
}

double AdamW::gradient_norm() const {
  std::vector<at::Tensor> defined;
  for (const at::Tensor& gradient : gradients_) {
    if (gradient.defined()) defined.push_back(gradient);
  }
  return global_norm(defined);
}

void AdamW::discard_gradients() {
  for (at::Tensor& gradient : gradients_) gradient.reset();
}

void AdamW::update(double learning_rate, double gradient_factor) {
  const at::NoGradGuard no_grad;
  ++updates_;
  const at::Tensor divisor =
      gradient_factor == 1.0 ? at::Tensor() : at::scalar_tensor(1.0 / gradient_factor, at::kFloat);
  for (const Group& group : groups_) update_group(group, learning_rate, divisor);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (needs_master(parameters_[i].value)) parameters_[i].value.copy_(weights_[i]);
  }
  discard_gradients();
}

void AdamW::update_group(const Group& group, double learning_rate, const at::Tensor& gradient_divisor) {
  std::vector<at::Tensor> weights, gradients, exp_avg, exp_avg_sq;
  for (const size_t i : group.members) {
    if (!gradients_[i].defined()) continue;
    weights.push_back(weights_[i]);
    gradients.push_back(gradients_[i]);
    exp_avg.push_back(exp_avg_[i]);
    exp_avg_sq.push_back(exp_avg_sq_[i]);
  }
  if (weights.empty()) return;
  const at::Device device = weights[0].device();
  const at::Tensor count = at::full({}, updates_, at::TensorOptions(device).dtype(at::kFloat));
  const std::vector<at::Tensor> counts(weights.size(), count);
  std::optional<at::Tensor> divisor;
  if (gradient_divisor.defined()) divisor = gradient_divisor.to(device);
  at::_fused_adamw_(weights, gradients, exp_avg, exp_avg_sq, /*max_exp_avg_sqs=*/{}, counts, learning_rate,
                    config_.betas[0], config_.betas[1], group.weight_decay, config_.epsilon, /*amsgrad=*/false,
                    /*maximize=*/false, divisor, /*found_inf=*/std::nullopt);
}

std::map<std::string, at::Tensor> AdamW::state() const {
  std::map<std::string, at::Tensor> state;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const std::string& name = parameters_[i].name;
    state["exp_avg." + name] = exp_avg_[i];
    state["exp_avg_sq." + name] = exp_avg_sq_[i];
    if (needs_master(parameters_[i].value)) state["master." + name] = weights_[i];
  }
  return state;
}

void AdamW::restore(const std::map<std::string, at::Tensor>& state, int64_t updates) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, live] : this->state()) copy_checked(name, state, live);
  updates_ = updates;
}

}  // namespace dga

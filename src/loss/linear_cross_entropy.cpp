#include "loss/linear_cross_entropy.h"

#include <ATen/ATen.h>
#include <torch/autograd.h>

#include <algorithm>
#include <limits>

#include "util/error.h"

// Shapes: N tokens, C tokens of a chunk, V vocabulary, E hidden size.

namespace dga {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Type of logits, softmax and sums.
at::ScalarType accumulation_type(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

/// The logits of the tokens, a chunk at a time, in buffers that all chunks share.
class LogitChunks {
 public:
  LogitChunks(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels, int64_t chunk_tokens)
      : hidden_(hidden), weight_(weight), labels_(labels), type_(accumulation_type(hidden.scalar_type())) {
    // A CPU has no product of two bf16 matrices with an fp32 result, so there the operands are widened.
    widen_ = hidden.is_cpu() && hidden.scalar_type() != type_;
    if (widen_) weight_ = weight_.to(type_);
    chunk_tokens_ = std::min(chunk_tokens, std::max<int64_t>(hidden.size(0), 1));
    logits_ = at::empty({chunk_tokens_, weight.size(0)}, hidden.options().dtype(type_));
    softmax_ = at::empty_like(logits_);
  }

  int64_t chunk_tokens() const { return chunk_tokens_; }
  at::ScalarType type() const { return type_; }
  const at::Tensor& weight() const { return weight_; }  // [V, E]

  void compute(int64_t first) {
    const int64_t count = std::min(chunk_tokens_, hidden_.size(0) - first);
    hidden_chunk_ = hidden_.narrow(0, first, count);
    if (widen_) hidden_chunk_ = hidden_chunk_.to(type_);
    at::Tensor logits = logits_.narrow(0, 0, count);
    if (hidden_chunk_.scalar_type() == type_) {
      at::mm_out(logits, hidden_chunk_, weight_.t());
    } else {
      at::mm_out(logits, hidden_chunk_, weight_.t(), type_);
    }
    const at::Tensor chunk_labels = labels_.narrow(0, first, count);
    has_label_ = chunk_labels != kNoLabel;
    safe_labels_ = chunk_labels.clamp_min(0).unsqueeze(1);
    label_logits_ = logits.gather(1, safe_labels_).squeeze(1);
    softmax_chunk_ = softmax_.narrow(0, 0, count);
    at::_softmax_out(softmax_chunk_, logits, 1, /*half_to_float=*/false);
    // The largest logit m has probability exp(m - lse), which is at least 1 / V and so never loses digits.
    lse_ = logits.amax(1) - softmax_chunk_.amax(1).log();
  }

  const at::Tensor& hidden() const { return hidden_chunk_; }      // [C, E]
  const at::Tensor& has_label() const { return has_label_; }      // [C] bool
  const at::Tensor& safe_labels() const { return safe_labels_; }  // [C, 1], 0 where there is none
  const at::Tensor& softmax() const { return softmax_chunk_; }    // [C, V]; may be overwritten
  const at::Tensor& lse() const { return lse_; }                  // [C]
  at::Tensor nll() const { return lse_ - label_logits_; }         // [C]

 private:
  at::Tensor hidden_, weight_, labels_;
  at::ScalarType type_;
  bool widen_ = false;
  int64_t chunk_tokens_ = 0;
  at::Tensor logits_, softmax_;
  at::Tensor hidden_chunk_, has_label_, safe_labels_, label_logits_, softmax_chunk_, lse_;
};

/// Turns a chunk's softmax into the gradient of its loss sum by the logits:
/// softmax * (1 + 2 z lse) - one_hot(label), rows without a label 0.
at::Tensor logit_gradient(const LogitChunks& chunk, double z_loss) {
  const at::Tensor& gradient = chunk.softmax();
  const at::Tensor with_label = chunk.has_label().to(chunk.type());
  const at::Tensor row_factor = z_loss == 0 ? with_label : with_label * (chunk.lse() * (2 * z_loss) + 1);
  gradient.mul_(row_factor.unsqueeze(1));
  gradient.scatter_add_(1, chunk.safe_labels(), with_label.neg().unsqueeze(1));
  return gradient;
}

/// Adds a chunk's part to the gradient of the weight ([V, E], accumulation type) and writes that of its hidden states
/// ([C, E]). Either may be undefined.
void add_gradients(const LogitChunks& chunk, const at::Tensor& logit_grad, at::Tensor grad_weight,
                   at::Tensor grad_hidden) {
  const at::Tensor operand = logit_grad.to(chunk.hidden().scalar_type());
  if (grad_weight.defined()) {
    if (operand.scalar_type() == chunk.type()) {
      at::addmm_out(grad_weight, grad_weight, operand.t(), chunk.hidden());
    } else {
      at::addmm_out(grad_weight, grad_weight, operand.t(), chunk.hidden(), chunk.type());
    }
  }
  if (!grad_hidden.defined()) return;
  if (grad_hidden.scalar_type() == operand.scalar_type()) {
    at::mm_out(grad_hidden, operand, chunk.weight());
  } else {
    grad_hidden.copy_(at::mm(operand, chunk.weight()));
  }
}

struct Sums {
  at::Tensor loss, nll, count;
  at::Tensor grad_hidden, grad_weight;  // of loss; undefined where not asked for
};

struct Wanted {
  bool grad_hidden = false;
  bool grad_weight = false;
};

Sums compute_sums(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels,
                  const LossConfig& config, Wanted wanted) {
  LogitChunks chunk(hidden, weight, labels, config.loss_chunk_tokens);
  Sums sums;
  sums.loss = at::zeros({}, hidden.options().dtype(at::kDouble));
  sums.nll = at::zeros_like(sums.loss);
  sums.count = (labels != kNoLabel).sum();
  if (wanted.grad_hidden) sums.grad_hidden = at::empty_like(hidden, at::MemoryFormat::Contiguous);
  if (wanted.grad_weight) sums.grad_weight = at::zeros(weight.sizes(), weight.options().dtype(chunk.type()));
  for (int64_t first = 0; first < hidden.size(0); first += chunk.chunk_tokens()) {
    chunk.compute(first);
    const at::Tensor nll = chunk.nll().masked_fill(chunk.has_label().logical_not(), 0).sum(at::kDouble);
    sums.nll.add_(nll);
    sums.loss.add_(nll);
    if (config.z_loss != 0) {
      const at::Tensor squares = chunk.lse().square().masked_fill(chunk.has_label().logical_not(), 0);
      sums.loss.add_(squares.sum(at::kDouble), config.z_loss);
    }
    if (!wanted.grad_hidden && !wanted.grad_weight) continue;
    const at::Tensor part =
        wanted.grad_hidden ? sums.grad_hidden.narrow(0, first, chunk.hidden().size(0)) : at::Tensor();
    add_gradients(chunk, logit_gradient(chunk, config.z_loss), sums.grad_weight, part);
  }
  if (wanted.grad_weight) sums.grad_weight = sums.grad_weight.to(weight.scalar_type());
  return sums;
}

struct LinearCrossEntropy : torch::autograd::Function<LinearCrossEntropy> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& weight,
                               const at::Tensor& labels, const LossConfig& config, Wanted wanted) {
    Sums sums = compute_sums(hidden, weight, labels, config, wanted);
    ctx->saved_data["grad_hidden"] = sums.grad_hidden;
    ctx->saved_data["grad_weight"] = sums.grad_weight;
    ctx->mark_non_differentiable({sums.nll, sums.count});
    return {sums.loss, sums.nll, sums.count};
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    DGA_CHECK(ctx->saved_data.count("grad_weight") == 1, "backward of linear_cross_entropy ran twice");
    const auto scaled = [&](const char* name) {
      at::Tensor gradient = ctx->saved_data[name].toTensor();
      // In place, since the gradient of the weight can be one of the largest tensors of a step.
      return gradient.defined() ? gradient.mul_(gradients[0]) : gradient;
    };
    const at::Tensor grad_hidden = scaled("grad_hidden");
    const at::Tensor grad_weight = scaled("grad_weight");
    ctx->saved_data.clear();
    return {grad_hidden, grad_weight, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

void check_arguments(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels) {
  DGA_CHECK(hidden.dim() == 2 && weight.dim() == 2 && hidden.size(1) == weight.size(1), "hidden ", hidden.sizes(),
            " and weight ", weight.sizes(), " must be [N, hidden] and [V, hidden]");
  DGA_CHECK(labels.dim() == 1 && labels.size(0) == hidden.size(0) && labels.scalar_type() == at::kLong, "labels ",
            labels.sizes(), " of type ", labels.scalar_type(), " must be int64 [", hidden.size(0), "]");
  DGA_CHECK(hidden.scalar_type() == weight.scalar_type(), "hidden is ", hidden.scalar_type(), ", weight ",
            weight.scalar_type());
  if (!labels.is_cpu() || labels.numel() == 0) return;
  const int64_t highest = labels.max().item<int64_t>();
  DGA_CHECK_INPUT(highest < weight.size(0), "label ", highest, " is outside the vocabulary of ", weight.size(0));
  const int64_t lowest = labels.masked_fill(labels == kNoLabel, 0).min().item<int64_t>();
  DGA_CHECK_INPUT(lowest >= 0, "label ", lowest, " is negative and not ", kNoLabel);
}

}  // namespace

LossSum linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels,
                             const LossConfig& config) {
  check_arguments(hidden, weight, labels);
  const bool recording = at::GradMode::is_enabled();
  const Wanted wanted{recording && hidden.requires_grad(), recording && weight.requires_grad()};
  const variable_list sums = LinearCrossEntropy::apply(hidden, weight, labels, config, wanted);
  return {sums[0], sums[1], sums[2]};
}

at::Tensor token_log_probs(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels,
                           int64_t chunk_tokens) {
  check_arguments(hidden, weight, labels);
  const at::NoGradGuard no_grad;
  LogitChunks chunk(hidden, weight, labels, chunk_tokens);
  at::Tensor result = at::empty({hidden.size(0)}, hidden.options().dtype(at::kFloat));
  for (int64_t first = 0; first < hidden.size(0); first += chunk.chunk_tokens()) {
    chunk.compute(first);
    const at::Tensor nll =
        chunk.nll().masked_fill(chunk.has_label().logical_not(), std::numeric_limits<double>::quiet_NaN());
    result.narrow(0, first, nll.size(0)).copy_(nll.neg());
  }
  return result;
}

}  // namespace dga

#include "loss/linear_cross_entropy.h"

#include <ATen/ATen.h>
#include <torch/autograd.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "ops/compute_type.h"
#include "ops/weight_gradient.h"
#include "util/error.h"

// Shapes: N tokens, C tokens of a chunk, V vocabulary, E hidden size.

namespace dga {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// The losses of the tokens, a chunk at a time, whose logits share one buffer.
class LossChunks {
 public:
  LossChunks(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels, int64_t chunk_tokens)
      : hidden_(hidden), weight_(weight), labels_(labels), type_(compute_type(hidden.scalar_type())) {
    // A CPU has no product of two bf16 matrices with an fp32 result, so there the operands are widened.
    widen_ = hidden.is_cpu() && hidden.scalar_type() != type_;
    if (widen_) weight_ = weight_.to(type_);
    chunk_tokens_ = std::min(chunk_tokens, std::max<int64_t>(hidden.size(0), 1));
    const auto options = hidden.options().dtype(type_).requires_grad(false);
    logits_ = hidden.scalar_type() == at::kBFloat16 && hidden.is_cuda()
                  ? padded_logits(chunk_tokens_, weight.size(0), options)
                  : at::empty({chunk_tokens_, weight.size(0)}, options);
  }

  int64_t count() const { return (hidden_.size(0) + chunk_tokens_ - 1) / chunk_tokens_; }
  int64_t first(int64_t chunk) const { return chunk * chunk_tokens_; }
  const at::Tensor& weight() const { return weight_; }  // [V, E]

  /// The hidden states [C, E] of a chunk, in the type that products are made in.
  at::Tensor hidden(int64_t chunk) const {
    const at::Tensor part = part_of(hidden_, chunk);
    return widen_ ? part.to(type_) : part;
  }

  TokenLosses losses(const at::Tensor& hidden, int64_t chunk, double z_loss, bool with_gradient) {
    at::Tensor logits = logits_.narrow(0, 0, hidden.size(0));
    if (hidden.scalar_type() == type_) {
      at::mm_out(logits, hidden, weight_.t());
    } else {
      at::mm_out(logits, hidden, weight_.t(), type_);
    }
    const std::optional<at::ScalarType> gradient = with_gradient ? std::optional(hidden.scalar_type()) : std::nullopt;
    return cross_entropy(logits, part_of(labels_, chunk), z_loss, gradient);
  }

 private:
  at::Tensor part_of(const at::Tensor& all, int64_t chunk) const {
    return all.narrow(0, first(chunk), std::min(chunk_tokens_, all.size(0) - first(chunk)));
  }

  at::Tensor hidden_, weight_, labels_;
  at::ScalarType type_;
  bool widen_ = false;
  int64_t chunk_tokens_ = 0;
  at::Tensor logits_;
};

struct Sums {
  at::Tensor loss, nll, count;
  at::Tensor grad_hidden, grad_weight;  // of loss; undefined where not asked for
};

struct Wanted {
  bool grad_hidden = false;
  bool grad_weight = false;
};

/// Writes the gradient of a chunk's hidden states ([C, E]).
void hidden_gradient(const at::Tensor& logit_gradient, const at::Tensor& weight, at::Tensor result) {
  if (result.scalar_type() == logit_gradient.scalar_type()) {
    at::mm_out(result, logit_gradient, weight);
  } else {
    result.copy_(at::mm(logit_gradient, weight));
  }
}

Sums compute_sums(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels,
                  const LossConfig& config, Wanted wanted) {
  LossChunks chunks(hidden, weight, labels, chunk_tokens(config, weight.size(0), hidden.is_cuda()));
  WeightGradient weight_gradient(chunks.count());
  Sums sums;
  if (wanted.grad_hidden) sums.grad_hidden = at::empty_like(hidden, at::MemoryFormat::Contiguous);
  std::vector<at::Tensor> nll, log_sum_exp;
  for (int64_t chunk = 0; chunk < chunks.count(); ++chunk) {
    const at::Tensor states = chunks.hidden(chunk);
    const TokenLosses losses = chunks.losses(states, chunk, config.z_loss, wanted.grad_hidden || wanted.grad_weight);
    nll.push_back(losses.nll);
    log_sum_exp.push_back(losses.log_sum_exp);
    if (wanted.grad_weight) weight_gradient.add(losses.gradient, states);
    if (wanted.grad_hidden) {
      hidden_gradient(losses.gradient, chunks.weight(),
                      sums.grad_hidden.narrow(0, chunks.first(chunk), states.size(0)));
    }
  }
  const auto total = [&](const std::vector<at::Tensor>& parts) {
    if (parts.empty()) return at::zeros({}, hidden.options().dtype(at::kDouble).requires_grad(false));
    return at::cat(parts).to(at::kDouble).sum();
  };
  sums.nll = total(nll);
  sums.loss = sums.nll.clone();
  if (config.z_loss != 0) {
    for (at::Tensor& part : log_sum_exp) part.square_();
    sums.loss.add_(total(log_sum_exp), config.z_loss);
  }
  sums.count = (labels != kNoLabel).sum();
  if (wanted.grad_weight) sums.grad_weight = weight_gradient.finish();
  if (wanted.grad_weight && !sums.grad_weight.defined()) sums.grad_weight = at::zeros_like(weight);
  return sums;
}

struct LinearCrossEntropy : torch::autograd::Function<LinearCrossEntropy> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& weight,
                               const at::Tensor& labels, const LossConfig& config, Wanted wanted) {
    Sums sums = compute_sums(hidden, weight, labels, config, wanted);
    ctx->saved_data["grad_hidden"] = sums.grad_hidden;
    ctx->saved_data["grad_weight"] = sums.grad_weight;
    ctx->save_for_backward({weight});
    ctx->mark_non_differentiable({sums.nll, sums.count});
    return {sums.loss, sums.nll, sums.count};
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    DGA_CHECK(ctx->saved_data.count("grad_weight") == 1, "backward of linear_cross_entropy ran twice");
    const at::Tensor weight = ctx->get_saved_variables()[0];
    // Into `result` where it has the right type, else in place: the gradient of the weight can be one of the largest
    // tensors of a step.
    const auto scaled = [&](const char* name, at::Tensor result) {
      const at::Tensor gradient = ctx->saved_data[name].toTensor();
      if (!gradient.defined()) return gradient;
      if (!result.defined()) {
        result = gradient.scalar_type() == weight.scalar_type() ? gradient : at::empty_like(gradient, weight.options());
      }
      return at::mul_out(result, gradient, gradients[0]);
    };
    const at::Tensor grad_hidden = scaled("grad_hidden", {});
    const std::shared_ptr<GradientSink> sink = gradient_sink(weight);
    const bool into_sink = sink && !sink->filled;
    at::Tensor grad_weight = scaled("grad_weight", into_sink ? sink->memory() : at::Tensor());
    if (into_sink && grad_weight.defined()) {
      sink->filled = true;
      grad_weight.reset();
    }
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
  LossChunks chunks(hidden, weight, labels, chunk_tokens);
  at::Tensor result = at::empty({hidden.size(0)}, hidden.options().dtype(at::kFloat));
  for (int64_t chunk = 0; chunk < chunks.count(); ++chunk) {
    const at::Tensor states = chunks.hidden(chunk);
    const at::Tensor nll = chunks.losses(states, chunk, /*z_loss=*/0, /*with_gradient=*/false).nll;
    result.narrow(0, chunks.first(chunk), states.size(0)).copy_(nll.neg());
  }
  return result.masked_fill_(labels == kNoLabel, std::numeric_limits<double>::quiet_NaN());
}

}  // namespace dga

#include "ops/weight_gradient.h"

#include <ATen/ATen.h>

#include "ops/compute_type.h"

namespace dga {
namespace {

/// What a product does with what stands in its output.
enum class Output { overwritten, added_to };

// A CPU has no product of bf16 matrices with an fp32 result, so there the operands are widened.
void product(at::Tensor out, const at::Tensor& dy, const at::Tensor& x, Output output) {
  const at::ScalarType type = out.scalar_type();
  const bool widen = type != x.scalar_type();
  const bool on_gpu = x.is_cuda();
  const at::Tensor a = widen && !on_gpu ? dy.t().to(type) : dy.t(), b = widen && !on_gpu ? x.to(type) : x;
  if (widen && on_gpu) {
    if (output == Output::added_to) {
      at::addmm_out(out, out, a, b, type);
    } else {
      at::mm_out(out, a, b, type);
    }
  } else if (output == Output::added_to) {
    at::addmm_out(out, out, a, b);
  } else {
    at::mm_out(out, a, b);
  }
}

}  // namespace

void WeightGradient::add(const at::Tensor& dy, const at::Tensor& x) {
  const at::ScalarType stored = x.scalar_type(), wide = compute_type(stored);
  const at::ScalarType needed = parts_ == 1 ? stored : wide;
  if (sink_) {
    const at::ScalarType found = sink_->memory().scalar_type();
    if (found == needed || (found == wide && x.is_cuda())) {
      product(sink_->sum, dy, x, sink_->filled ? Output::added_to : Output::overwritten);
      sink_->filled = true;
      return;
    }
  }
  const bool first = !sum_.defined();
  if (first) sum_ = at::empty({dy.size(1), x.size(1)}, x.options().dtype(needed));
  product(sum_, dy, x, first ? Output::overwritten : Output::added_to);
}

at::Tensor WeightGradient::finish() {
  if (!sink_ || !sum_.defined()) return sum_;
  sink_->add(sum_);
  return {};
}

at::Tensor weight_gradient(const at::Tensor& weight, const at::Tensor& dy, const at::Tensor& x) {
  WeightGradient gradient(1, gradient_sink(weight));
  gradient.add(dy, x);
  return gradient.finish();
}

}  // namespace dga

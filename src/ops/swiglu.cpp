#include "ops/swiglu.h"

#include <ATen/ATen.h>

#include "ops/row_kernels.h"
#include "util/error.h"

namespace dga {

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  DGA_CHECK(gate.sizes() == up.sizes() && gate.scalar_type() == up.scalar_type(), "swiglu: gate ", gate.sizes(), " ",
            gate.scalar_type(), " and up ", up.sizes(), " ", up.scalar_type(), " differ");
  if (row_kernels::take_swiglu(gate)) return row_kernels::swiglu(gate, up);
  return at::silu(gate).mul_(up);
}

SwigluGradients swiglu_backward(const at::Tensor& grad, const at::Tensor& gate, const at::Tensor& up,
                                Operands operands) {
  if (row_kernels::take_swiglu(gate)) {
    if (operands == Operands::consumed) return row_kernels::swiglu_backward(grad, gate, up, {gate, up, grad});
    const auto fresh = [&] { return at::empty(gate.sizes(), gate.options()); };
    return row_kernels::swiglu_backward(grad, gate, up, {fresh(), fresh(), fresh()});
  }
  SwigluGradients result;
  result.gate = grad.mul(up);
  at::silu_backward_out(result.gate, result.gate, gate);  // in place, element by element
  result.up = at::silu(gate);
  result.product = result.up.mul(up);
  result.up.mul_(grad);
  return result;
}

}  // namespace dga

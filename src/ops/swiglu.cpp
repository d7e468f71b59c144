#include "ops/swiglu.h"

#include <ATen/ATen.h>
#include <torch/autograd.h>

#include "util/error.h"

namespace dga {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Keeps the two inputs alone; silu(gate) is computed again in the backward pass.
struct SwiGlu : torch::autograd::Function<SwiGlu> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate, const at::Tensor& up) {
    context->save_for_backward({gate, up});
    return at::silu(gate).mul_(up);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &gate = saved[0], &up = saved[1], &dy = gradients[0];
    at::Tensor dgate, dup;
    if (context->needs_input_grad(0)) {
      dgate = dy.mul(up);
      at::silu_backward_out(dgate, dgate, gate);  // in place, element by element
    }
    if (context->needs_input_grad(1)) dup = at::silu(gate).mul_(dy);
    return {dgate, dup};
  }
};

}  // namespace

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  DGA_CHECK(gate.sizes() == up.sizes() && gate.scalar_type() == up.scalar_type(), "swiglu: gate ", gate.sizes(), " ",
            gate.scalar_type(), " and up ", up.sizes(), " ", up.scalar_type(), " differ");
  return SwiGlu::apply(gate, up);
}

}  // namespace dga

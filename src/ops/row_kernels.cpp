#include "ops/row_kernels.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>

#include "kernels/cross_entropy.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"

namespace dga::row_kernels {
namespace {

bool is_bf16_on_gpu(const at::Tensor& x) { return x.is_cuda() && x.scalar_type() == at::kBFloat16; }

bool is_aligned(const at::Tensor& x) { return reinterpret_cast<uintptr_t>(x.data_ptr()) % 16 == 0; }

/// The tensor, or a copy whose memory is contiguous and aligned to the 16 bytes that a thread loads.
at::Tensor loadable(const at::Tensor& x) {
  return x.is_contiguous() && is_aligned(x) ? x : x.clone(at::MemoryFormat::Contiguous);
}

at::Tensor like(const at::Tensor& x) { return at::empty(x.sizes(), x.options()); }

// [B, L, heads, D] as T = B L tokens; copied where that is no plain stride or a head is not contiguous.
at::Tensor token_rows(const at::Tensor& x) {
  const bool one_stride = x.size(0) == 1 || x.stride(0) == x.size(1) * x.stride(1);
  const bool aligned = is_aligned(x) && x.stride(1) % 8 == 0 && x.stride(2) % 8 == 0;
  return x.stride(3) == 1 && one_stride && aligned ? x : x.clone(at::MemoryFormat::Contiguous);
}

kernels::RopeTensor rope_tensor(const at::Tensor& in, const at::Tensor& out) {
  return {in.data_ptr(), out.data_ptr(), in.size(2), in.stride(1), in.stride(2)};
}

}  // namespace

bool take_norm(const at::Tensor& x) { return is_bf16_on_gpu(x) && kernels::rms_norm_supports(x.size(-1)); }
bool take_rope(const at::Tensor& x) { return is_bf16_on_gpu(x) && kernels::rope_supports(x.size(-1)); }
bool take_swiglu(const at::Tensor& x) { return is_bf16_on_gpu(x) && kernels::swiglu_supports(x.numel()); }
bool take_logits(const at::Tensor& x) {
  return x.is_cuda() && x.scalar_type() == at::kFloat && x.stride(1) == 1 && x.stride(0) % 8 == 0 && is_aligned(x);
}

AddedNorm add_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight, double eps,
                   const at::Tensor& sum) {
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor rows = loadable(x), scale = loadable(weight);
  const at::Tensor added = residual.defined() ? loadable(residual) : residual;
  AddedNorm result{added.defined() ? sum.defined() ? sum : like(rows) : x, like(rows),
                   at::empty({rows.size(0)}, rows.options().dtype(at::kFloat))};
  kernels::RmsNormForwardParams params;
  params.rows = rows.size(0);
  params.width = rows.size(1);
  params.x = rows.data_ptr();
  params.residual = added.defined() ? added.data_ptr() : nullptr;
  params.weight = scale.data_ptr();
  params.sum = added.defined() ? result.sum.data_ptr() : nullptr;
  params.normed = result.normed.data_ptr();
  params.inverse_rms = result.inverse_rms.data_ptr<float>();
  params.eps = static_cast<float>(eps);
  kernels::rms_norm_forward(params, at::cuda::getCurrentCUDAStream());
  return result;
}

NormGradients norm_backward(const NormBackward& given, const at::Tensor& weight) {
  const c10::cuda::CUDAGuard guard(given.sum.device());
  const at::Tensor sum = loadable(given.sum), grad_normed = loadable(given.grad_normed), scale = loadable(weight);
  const at::Tensor grad_sum = given.grad_sum.defined() ? loadable(given.grad_sum) : given.grad_sum;
  const auto floats = sum.options().dtype(at::kFloat);
  NormGradients result{given.out.defined() ? given.out : like(sum),
                       given.wants_weight ? at::empty({sum.size(1)}, floats) : at::Tensor()};
  kernels::RmsNormBackwardParams params;
  params.rows = sum.size(0);
  params.width = sum.size(1);
  const size_t bytes = given.wants_weight ? kernels::rms_norm_backward_workspace_bytes(params.rows, params.width) : 0;
  const at::Tensor workspace = at::empty({static_cast<int64_t>(bytes)}, sum.options().dtype(at::kByte));
  params.grad_normed = grad_normed.data_ptr();
  params.grad_residual = grad_sum.defined() ? grad_sum.data_ptr() : nullptr;
  params.sum = sum.data_ptr();
  params.weight = scale.data_ptr();
  params.inverse_rms = given.inverse_rms.data_ptr<float>();
  params.grad_sum = result.sum.data_ptr();
  params.grad_weight = given.wants_weight ? result.weight.data_ptr<float>() : nullptr;
  params.workspace = workspace.data_ptr();
  kernels::rms_norm_backward(params, at::cuda::getCurrentCUDAStream());
  return result;
}

QueryKey rope(const QueryKey& in, const QueryKey& out, const at::Tensor& cos, const at::Tensor& sin,
              Rotation rotation) {
  const c10::cuda::CUDAGuard guard(in.query.device());
  const at::Tensor query = token_rows(in.query), key = token_rows(in.key);
  const at::Tensor cosines = loadable(cos.to(at::kFloat)), sines = loadable(sin.to(at::kFloat));
  kernels::RopeParams params;
  params.query = rope_tensor(query, out.query);
  params.key = rope_tensor(key, out.key);
  params.batch = query.size(0);
  params.length = query.size(1);
  params.head_dim = query.size(3);
  params.cos = cosines.data_ptr<float>();
  params.sin = sines.data_ptr<float>();
  params.table_batch_stride = cosines.size(0) == 1 ? 0 : cosines.stride(0);
  params.direction = rotation == Rotation::forward ? kernels::RopeDirection::forward : kernels::RopeDirection::backward;
  kernels::rope(params, at::cuda::getCurrentCUDAStream());
  return out;
}

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  const c10::cuda::CUDAGuard guard(gate.device());
  const at::Tensor g = loadable(gate), u = loadable(up);
  at::Tensor product = like(g);
  kernels::swiglu_forward({g.numel(), g.data_ptr(), u.data_ptr(), product.data_ptr()},
                          at::cuda::getCurrentCUDAStream());
  return product;
}

SwigluGradients swiglu_backward(const at::Tensor& grad, const at::Tensor& gate, const at::Tensor& up,
                                const SwigluGradients& out) {
  const c10::cuda::CUDAGuard guard(gate.device());
  const at::Tensor d = loadable(grad), g = loadable(gate), u = loadable(up);
  const SwigluGradients result{loadable(out.gate), loadable(out.up), loadable(out.product)};
  kernels::SwigluBackwardParams params;
  params.count = g.numel();
  params.grad = d.data_ptr();
  params.gate = g.data_ptr();
  params.up = u.data_ptr();
  params.grad_gate = result.gate.data_ptr();
  params.grad_up = result.up.data_ptr();
  params.product = result.product.data_ptr();
  kernels::swiglu_backward(params, at::cuda::getCurrentCUDAStream());
  return result;
}

TokenLosses cross_entropy(const at::Tensor& logits, const at::Tensor& labels, double z_loss,
                          std::optional<at::ScalarType> gradient) {
  const c10::cuda::CUDAGuard guard(logits.device());
  const at::Tensor targets = labels.contiguous();
  const int64_t tokens = logits.size(0), vocabulary = logits.size(1);
  TokenLosses result{at::empty({tokens}, logits.options()), at::empty({tokens}, logits.options()), {}};
  if (gradient) {
    result.gradient = at::empty({tokens, logits.stride(0)}, logits.options().dtype(*gradient)).narrow(1, 0, vocabulary);
  }
  kernels::CrossEntropyParams params;
  params.tokens = tokens;
  params.vocabulary = vocabulary;
  params.logits = logits.data_ptr<float>();
  params.row_stride = logits.stride(0);
  params.labels = targets.data_ptr<int64_t>();
  params.no_label = kNoLabel;
  params.z_loss = static_cast<float>(z_loss);
  params.nll = result.nll.data_ptr<float>();
  params.log_sum_exp = result.log_sum_exp.data_ptr<float>();
  params.gradient = gradient ? result.gradient.data_ptr() : nullptr;
  kernels::cross_entropy(params, at::cuda::getCurrentCUDAStream());
  return result;
}

}  // namespace dga::row_kernels

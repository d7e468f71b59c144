#include "ops/row_kernels.h"
#include "util/error.h"

namespace dga::row_kernels {
namespace {

[[noreturn]] void refuse() { fail(ExitCode::failure, "this program was built without CUDA"); }

}  // namespace

bool take_norm(const at::Tensor&) { return false; }
bool take_rope(const at::Tensor&) { return false; }
bool take_swiglu(const at::Tensor&) { return false; }
bool take_logits(const at::Tensor&) { return false; }

AddedNorm add_norm(const at::Tensor&, const at::Tensor&, const at::Tensor&, double) { refuse(); }
NormGradients norm_backward(const NormBackward&, const at::Tensor&) { refuse(); }
QueryKey rope(const QueryKey&, const QueryKey&, const at::Tensor&, const at::Tensor&, Rotation) { refuse(); }
at::Tensor swiglu(const at::Tensor&, const at::Tensor&) { refuse(); }
SwigluGradients swiglu_backward(const at::Tensor&, const at::Tensor&, const at::Tensor&, const SwigluGradients&) {
  refuse();
}
TokenLosses cross_entropy(const at::Tensor&, const at::Tensor&, double, std::optional<at::ScalarType>) { refuse(); }

}  // namespace dga::row_kernels

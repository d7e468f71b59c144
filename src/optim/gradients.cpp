#include "optim/gradients.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace dga {

double global_norm(const std::vector<at::Tensor>& gradients) {
  if (gradients.empty()) return 0;
  const std::vector<at::Tensor> norms = at::_foreach_norm(gradients, 2);
  return at::linalg_vector_norm(at::stack(norms).to(at::kDouble)).item<double>();
}

double clip_factor(double norm, double clip_norm) {
  return clip_norm == 0 ? 1.0 : std::min(1.0, clip_norm / (norm + 1e-6));
}

}  // namespace dga

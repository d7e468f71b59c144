#include "ops/cross_entropy.h"

#include <ATen/ATen.h>

#include "ops/row_kernels.h"
#include "util/error.h"

namespace dga {

at::Tensor padded_logits(int64_t tokens, int64_t vocabulary, const at::TensorOptions& options) {
  return at::empty({tokens, (vocabulary + 7) / 8 * 8}, options).narrow(1, 0, vocabulary);
}

TokenLosses cross_entropy(const at::Tensor& logits, const at::Tensor& labels, double z_loss,
                          std::optional<at::ScalarType> gradient) {
  DGA_CHECK(logits.dim() == 2 && labels.dim() == 1 && labels.size(0) == logits.size(0), "cross_entropy: logits ",
            logits.sizes(), " and labels ", labels.sizes(), " must be [C, V] and [C]");
  if (row_kernels::take_logits(logits) && (!gradient || *gradient == at::kBFloat16)) {
    return row_kernels::cross_entropy(logits, labels, z_loss, gradient);
  }
  const at::Tensor without_label = labels == kNoLabel;
  const at::Tensor index = labels.masked_fill(without_label, 0).unsqueeze(1);  // [C, 1]
  const at::Tensor label_logits = logits.gather(1, index).squeeze(1);
  const at::Tensor maximum = logits.amax(1);
  at::Tensor softmax = logits;
  at::_softmax_out(softmax, logits, 1, /*half_to_float=*/false);
  // The largest logit m has probability exp(m - lse), which is at least 1 / V and so never loses digits.
  const at::Tensor lse = maximum - softmax.amax(1).log();
  TokenLosses result{(lse - label_logits).masked_fill_(without_label, 0), lse.masked_fill(without_label, 0), {}};
  if (!gradient) return result;
  const at::Tensor with_label = without_label.logical_not().to(logits.scalar_type());
  const at::Tensor row_factor = z_loss == 0 ? with_label : with_label * (lse * (2 * z_loss) + 1);
  softmax.mul_(row_factor.unsqueeze(1));
  softmax.scatter_add_(1, index, with_label.neg().unsqueeze(1));
  result.gradient = softmax.to(*gradient);
  return result;
}

}  // namespace dga

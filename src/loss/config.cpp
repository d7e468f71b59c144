#include "loss/config.h"

#include <algorithm>

namespace dga {

void LossConfig::fields(config::Fields& f) {
  f.field(
      "loss_chunk_tokens", loss_chunk_tokens,
      "tokens whose logits exist at one time; more memory, fewer and larger products; 0 takes 512 on a CPU and what "
      "512 MiB of logits hold on a GPU (4096 at a vocabulary of 32000)",
      config::at_least(0));
  f.field("z_loss", z_loss, "coefficient of the squared log-sum-exp of the logits, added to each token's loss",
          config::at_least(0));
}

int64_t chunk_tokens(const LossConfig& config, int64_t vocabulary, bool on_gpu) {
  if (config.loss_chunk_tokens > 0) return config.loss_chunk_tokens;
  if (!on_gpu) return 512;
  constexpr int64_t kLogits = (int64_t{512} << 20) / 4;
  return std::max<int64_t>(kLogits / vocabulary / 256 * 256, 256);
}

}  // namespace dga

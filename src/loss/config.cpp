#include "loss/config.h"

namespace dga {

void LossConfig::fields(config::Fields& f) {
  f.field("loss_chunk_tokens", loss_chunk_tokens,
          "tokens whose logits exist at one time; more memory, fewer and larger products", config::at_least(1));
  f.field("z_loss", z_loss, "coefficient of the squared log-sum-exp of the logits, added to each token's loss",
          config::at_least(0));
}

}  // namespace dga

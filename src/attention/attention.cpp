#include "attention/attention.h"

#include "attention/dga.h"
#include "attention/full.h"
#include "util/error.h"

namespace dga {

std::unique_ptr<Attention> make_attention(const AttentionConfig& config, int64_t layer, uint64_t seed) {
  if (kind_of_layer(config, layer) == AttentionKind::full) return make_full_attention(config);
  if (config.backend == AttentionBackend::sdpa) {
    fail(ExitCode::config, "attention.backend: sdpa computes full attention only, and layer ", layer,
         " is dga; use auto or reference");
  }
  return make_dga_attention(config, layer, seed);
}

}  // namespace dga

#include "attention/attention.h"

#include "attention/dga.h"
#include "attention/full.h"
#include "attention/window.h"
#include "util/error.h"

namespace dga {

std::unique_ptr<Attention> make_attention(const AttentionConfig& config, int64_t layer, uint64_t seed,
                                          const at::Tensor& inverse_frequencies) {
  const AttentionKind kind = kind_of_layer(config, layer);
  if (kind == AttentionKind::full) return make_full_attention(config);
  if (config.backend == AttentionBackend::sdpa) {
    fail(ExitCode::config, "attention.backend: sdpa computes full attention only, and layer ", layer, " is ",
         config::name_of(kind), "; use auto or reference");
  }
  if (kind == AttentionKind::dga) return make_dga_attention(config, layer, seed);
  return make_window_attention(config, kind, inverse_frequencies);
}

}  // namespace dga

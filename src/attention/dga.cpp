#include "attention/dga.h"

#include <ATen/ATen.h>

#include "attention/by_sequence.h"
#include "attention/kernel_backend.h"
#include "util/error.h"

namespace dga {
namespace {

class DgaAttention : public Attention {
 public:
  DgaAttention(const AttentionConfig& config, const RandomKey& key) : config_(config), key_(key) {}

  at::Tensor forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const SequenceLayout& layout,
                     AttentionMemory* memory) const override {
    if (use_kernels(config_, AttentionKind::dga, q, k)) {
      check_heads(q, k, v);
      layout.check(q.size(0), q.size(1));
      return kernel_dga_attention(q, k, v, layout, config_, key_, memory);
    }
    return by_sequence(
        q, k, v, layout,
        [this](const at::Tensor& sq, const at::Tensor& sk, const at::Tensor& sv, const SequenceSpan& span) {
          const SequenceTokens tokens{sq, sk, sv};
          return config_.selection == Selection::causal ? block_rule_attention(tokens, config_)
                                                        : sequence_rule_attention(tokens, config_, key_, span.number);
        });
  }

  double visible_pairs(int64_t length) const override {
    return dga::visible_pairs(config_, AttentionKind::dga, length);
  }
  bool looks_ahead() const override { return dga::looks_ahead(config_, AttentionKind::dga); }

  std::unique_ptr<AttentionCache> make_cache() const override {
    const std::string obstacle = decoding_obstacle(config_, AttentionKind::dga);
    if (!obstacle.empty()) fail(ExitCode::config, obstacle);
    return make_block_rule_cache(config_);
  }

 private:
  AttentionConfig config_;
  RandomKey key_;
};

}  // namespace

std::unique_ptr<Attention> make_dga_attention(const AttentionConfig& config, int64_t layer, uint64_t seed) {
  return std::make_unique<DgaAttention>(config, RandomKey{seed, layer});
}

}  // namespace dga

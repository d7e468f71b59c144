#include "attention/full.h"

#include <ATen/ATen.h>

#include <cmath>

#include "attention/by_sequence.h"
#include "attention/kernel_backend.h"
#include "attention/token_buffer.h"
#include "ops/kernel_attention.h"
#include "ops/two_range_attention.h"
#include "util/error.h"

namespace dga {
namespace {

enum class Mask { none, causal };

// q [B, T, H, D], k, v [B, L, G, D] -> [B, T, H, D].
at::Tensor fused_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, Mask mask) {
  return at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), {}, 0.0,
                                          mask == Mask::causal, std::nullopt, q.size(2) != k.size(2))
      .transpose(1, 2);
}

// The last T of L tokens as queries: q [T, H, D], k, v [L, G, D] -> [T, H, D].
at::Tensor reference_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const int64_t length = k.size(0);
  const at::Tensor visible = at::arange(length - q.size(0) + 1, length + 1, q.options().dtype(at::kLong));
  TwoRangeKeys keys;
  keys.first_keys = k.transpose(0, 1);
  keys.first_values = v.transpose(0, 1);
  TwoRangeBounds bounds;
  bounds.first_end = visible.unsqueeze(0).expand({k.size(1), -1});
  return two_range_attention(q, keys, bounds, {1.0 / std::sqrt(static_cast<double>(q.size(2)))});
}

class FullCache : public AttentionCache {
 public:
  explicit FullCache(AttentionBackend backend) : backend_(backend) {}

  at::Tensor append(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) override {
    check_heads(q, k, v);
    DGA_CHECK(q.size(0) == 1, "a cache holds one sequence, got q ", q.sizes());
    const at::NoGradGuard no_grad;
    keys_.append(k[0]);
    values_.append(v[0]);
    const at::Tensor all_keys = keys_.tokens(), all_values = values_.tokens();
    const bool first = all_keys.size(0) == q.size(1);
    if (backend_ == AttentionBackend::reference || (!first && q.size(1) > 1)) {
      return reference_attention(q[0], all_keys, all_values).unsqueeze(0);
    }
    return fused_attention(q, all_keys.unsqueeze(0), all_values.unsqueeze(0), first ? Mask::causal : Mask::none);
  }

  int64_t length() const override { return keys_.size(); }

 private:
  AttentionBackend backend_;
  TokenBuffer keys_, values_;
};

class FullAttention : public Attention {
 public:
  explicit FullAttention(const AttentionConfig& config) : config_(config) {}

  at::Tensor forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const SequenceLayout& layout,
                     AttentionMemory* memory) const override {
    if (use_kernels(config_, AttentionKind::full, q, k)) {
      check_heads(q, k, v);
      layout.check(q.size(0), q.size(1));
      return kernel_token_attention(q, k, v, layout.starts, {1.0 / std::sqrt(static_cast<double>(q.size(3)))}, memory);
    }
    const bool fused = config_.backend != AttentionBackend::reference;
    bool whole_rows = true;
    for (const std::vector<int64_t>& starts : layout.starts) whole_rows = whole_rows && starts.size() == 1;
    if (fused && whole_rows) {
      check_heads(q, k, v);
      layout.check(q.size(0), q.size(1));
      return fused_attention(q, k, v, Mask::causal);
    }
    return by_sequence(q, k, v, layout,
                       [fused](const at::Tensor& sq, const at::Tensor& sk, const at::Tensor& sv, const SequenceSpan&) {
                         if (!fused) return reference_attention(sq, sk, sv);
                         return fused_attention(sq.unsqueeze(0), sk.unsqueeze(0), sv.unsqueeze(0), Mask::causal)[0];
                       });
  }

  double visible_pairs(int64_t length) const override {
    return dga::visible_pairs(config_, AttentionKind::full, length);
  }
  bool looks_ahead() const override { return dga::looks_ahead(config_, AttentionKind::full); }
  std::unique_ptr<AttentionCache> make_cache() const override { return std::make_unique<FullCache>(config_.backend); }

 private:
  AttentionConfig config_;
};

}  // namespace

std::unique_ptr<Attention> make_full_attention(const AttentionConfig& config) {
  return std::make_unique<FullAttention>(config);
}

}  // namespace dga

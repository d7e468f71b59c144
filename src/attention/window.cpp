#include "attention/window.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "attention/by_sequence.h"
#include "attention/kernel_backend.h"
#include "attention/token_buffer.h"
#include "ops/compute_type.h"
#include "ops/two_range_attention.h"
#include "util/error.h"

// Query t sees the tokens (t - w, t] as they are, and of the first s tokens those before that window: two ranges over
// the same tokens. s = sink_tokens, w = window.
namespace dga {
namespace {

constexpr int64_t kFar = int64_t{1} << 40;  // beyond every sequence; sums of two stay far from overflow

/// The distance at which a query sees the first tokens.
enum class SinkDistance {
  own,      // as their positions are
  cache,    // as if only the tokens in the cache were numbered, s + w of them (StreamingLLM)
  clamped,  // w for all of them (LM-Infinite)
};

SinkDistance sink_distance(const AttentionConfig& config, AttentionKind kind) {
  if (kind == AttentionKind::lm_infinite) return SinkDistance::clamped;
  const bool in_cache = kind == AttentionKind::streaming && config.sink_positions == SinkPositions::cache;
  return in_cache ? SinkDistance::cache : SinkDistance::own;
}

/// x [T, heads, D] after RoPE, moved by `shift` [T] (double) positions. Differentiable in x.
at::Tensor move_positions(const at::Tensor& x, const at::Tensor& shift, const at::Tensor& inverse_frequencies) {
  const at::ScalarType type = compute_type(x.scalar_type());
  const at::Tensor frequencies = inverse_frequencies.to(shift.device(), at::kDouble);
  const at::Tensor angles = shift.unsqueeze(1).mul(frequencies).unsqueeze(1);  // [T, 1, D/2]
  const at::Tensor cos = angles.cos().to(type), sin = angles.sin().to(type);
  const std::vector<at::Tensor> halves = x.to(type).chunk(2, 2);
  const at::Tensor low = halves[0].mul(cos).sub(halves[1].mul(sin)), high = halves[1].mul(cos).add(halves[0].mul(sin));
  return at::cat({low, high}, 2).to(x.scalar_type());
}

/// Tokens of one sequence, k, v [N, G, D], from position `begin` on.
struct TokenRun {
  at::Tensor k, v;
  int64_t begin = 0;
};

class WindowRule {
 public:
  WindowRule(const AttentionConfig& config, AttentionKind kind, const at::Tensor& inverse_frequencies)
      : sinks_(std::min(config.sink_tokens, kFar)),
        window_(std::min(config.window, kFar)),
        distance_(sink_distance(config, kind)),
        frequencies_(inverse_frequencies) {
    DGA_CHECK(distance_ == SinkDistance::own || frequencies_.defined(),
              "attention that moves positions needs RoPE's frequencies");
  }

  int64_t sinks() const { return sinks_; }
  int64_t window() const { return window_; }

  /// Queries q [T, H, D] at positions `first` and following; `sinks` are the first tokens of the sequence, at most s,
  /// `recent` at least the windows of all queries.
  at::Tensor attend(const at::Tensor& q, int64_t first, const TokenRun& sinks, const TokenRun& recent) const {
    const int64_t kv_heads = recent.k.size(1), width = q.size(2);
    const at::Tensor t = at::arange(first, first + q.size(0), q.options().dtype(at::kLong).requires_grad(false));
    const at::Tensor window_begin = t.sub(window_ - 1).clamp_min(0);
    const auto every_head = [kv_heads](const at::Tensor& bound) { return bound.unsqueeze(0).expand({kv_heads, -1}); };
    TwoRangeBounds bounds;
    bounds.first_end = every_head(window_begin.clamp_max(sinks_));
    bounds.second_begin = every_head(window_begin.sub(recent.begin));
    bounds.second_end = every_head(t.add(1 - recent.begin));
    const auto by_head = [](const at::Tensor& x) { return x.transpose(0, 1); };
    TwoRangeKeys keys{by_head(sinks.k), by_head(sinks.v), {}, by_head(recent.k), by_head(recent.v)};
    const double scale = 1.0 / std::sqrt(static_cast<double>(width));
    if (distance_ == SinkDistance::own) return two_range_attention(q, keys, bounds, {scale});

    // The first range has a query (and keys) of its own. Both queries stand side by side in one of twice the width, and
    // each list's keys are zero where the other's query is.
    const auto beside = [](const at::Tensor& low, const at::Tensor& high) { return at::cat({low, high}, 2); };
    const at::Tensor sink_keys = by_head(moved_keys(sinks.k));
    keys.first_keys = beside(sink_keys, at::zeros_like(sink_keys));
    keys.second_keys = beside(at::zeros_like(keys.second_keys), keys.second_keys);
    keys.first_values = beside(keys.first_values, at::zeros_like(keys.first_values));
    keys.second_values = beside(keys.second_values, at::zeros_like(keys.second_values));
    return two_range_attention(beside(moved_queries(q, t), q), keys, bounds, {scale}).narrow(2, 0, width);
  }

 private:
  /// Queries as the first tokens see them: at position w with all of those at position 0, or at the place in the cache.
  at::Tensor moved_queries(const at::Tensor& q, const at::Tensor& t) const {
    const at::Tensor position =
        distance_ == SinkDistance::clamped ? at::full_like(t, window_) : t.clamp_max(sinks_ + window_ - 1);
    return move_positions(q, position.sub(t).to(at::kDouble), frequencies_);
  }
  at::Tensor moved_keys(const at::Tensor& k) const {
    if (distance_ == SinkDistance::cache) return k;
    const at::Tensor position = at::arange(k.size(0), k.options().dtype(at::kDouble).requires_grad(false));
    return move_positions(k, position.neg(), frequencies_);
  }

  int64_t sinks_, window_;
  SinkDistance distance_;
  at::Tensor frequencies_;
};

class WindowCache : public AttentionCache {
 public:
  explicit WindowCache(const WindowRule& rule) : rule_(rule) {}

  at::Tensor append(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) override {
    check_heads(q, k, v);
    DGA_CHECK(q.size(0) == 1, "a cache holds one sequence, got q ", q.sizes());
    const at::NoGradGuard no_grad;
    const int64_t first = length_, missing = std::min(rule_.sinks() - sink_count_, k.size(1));
    sink_keys_.append(k[0].narrow(0, 0, missing));
    sink_values_.append(v[0].narrow(0, 0, missing));
    sink_count_ += missing;
    keys_.append(k[0]);
    values_.append(v[0]);
    length_ += k.size(1);
    const int64_t begin = length_ - keys_.size();
    const at::Tensor out = rule_.attend(q[0], first, {sink_keys_.tokens(), sink_values_.tokens(), 0},
                                        {keys_.tokens(), values_.tokens(), begin});
    const int64_t surplus = std::max<int64_t>(0, keys_.size() - (rule_.window() - 1));
    keys_.drop_front(surplus);
    values_.drop_front(surplus);
    return out.unsqueeze(0);
  }

  int64_t length() const override { return length_; }

 private:
  WindowRule rule_;
  TokenBuffer sink_keys_, sink_values_;  // of the first tokens
  TokenBuffer keys_, values_;            // of those that the next token may see in its window
  int64_t sink_count_ = 0;
  int64_t length_ = 0;
};

class WindowAttention : public Attention {
 public:
  WindowAttention(const AttentionConfig& config, AttentionKind kind, const at::Tensor& inverse_frequencies)
      : config_(config), kind_(kind), rule_(config, kind, inverse_frequencies) {}

  at::Tensor forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const SequenceLayout& layout,
                     AttentionMemory* memory) const override {
    if (use_kernels(config_, kind_, q, k)) {
      check_heads(q, k, v);
      layout.check(q.size(0), q.size(1));
      const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
      return kernel_token_attention(q, k, v, layout.starts, {scale, rule_.window(), rule_.sinks()}, memory);
    }
    return by_sequence(
        q, k, v, layout,
        [this](const at::Tensor& sq, const at::Tensor& sk, const at::Tensor& sv, const SequenceSpan& span) {
          const int64_t sinks = std::min(rule_.sinks(), span.length);
          return rule_.attend(sq, 0, {sk.narrow(0, 0, sinks), sv.narrow(0, 0, sinks), 0}, {sk, sv, 0});
        });
  }

  double visible_pairs(int64_t length) const override { return dga::visible_pairs(config_, kind_, length); }
  bool looks_ahead() const override { return dga::looks_ahead(config_, kind_); }
  std::unique_ptr<AttentionCache> make_cache() const override { return std::make_unique<WindowCache>(rule_); }

 private:
  AttentionConfig config_;
  AttentionKind kind_;
  WindowRule rule_;
};

}  // namespace

std::unique_ptr<Attention> make_window_attention(const AttentionConfig& config, AttentionKind kind,
                                                 const at::Tensor& inverse_frequencies) {
  return std::make_unique<WindowAttention>(config, kind, inverse_frequencies);
}

}  // namespace dga

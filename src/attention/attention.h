#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "attention/config.h"
#include "attention/sequence_layout.h"
#include "ops/attention_memory.h"

/// Shapes: B batch, L length, T new tokens, H query heads, G key-value heads, D head dim.
namespace dga {

/// Keys and values of the tokens so far, of one sequence in one layer, in the form that the kind needs.
class AttentionCache {
 public:
  virtual ~AttentionCache() = default;

  /// Adds T >= 1 tokens and returns their outputs [1, T, H, D], equal to rounding to those of Attention::forward over
  /// the whole sequence however it is cut into calls. q [1, T, H, D]; k, v [1, T, G, D]; after RoPE; no gradients.
  virtual at::Tensor append(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) = 0;

  /// Tokens appended so far.
  virtual int64_t length() const = 0;
};

/// Attention of one layer.
class Attention {
 public:
  virtual ~Attention() = default;

  /// Outputs [B, L, H, D] for q [B, L, H, D] and k, v [B, L, G, D], all after RoPE, of one floating type and device;
  /// H is a multiple of G. Differentiable; deterministic, so recomputation gives the same bits. `memory`, where there
  /// is one, is empty at the first call and given again to a second call with the same arguments.
  virtual at::Tensor forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const SequenceLayout& layout, AttentionMemory* memory = nullptr) const = 0;

  /// See visible_pairs in attention/config.h.
  virtual double visible_pairs(int64_t length) const = 0;

  /// See looks_ahead in attention/config.h.
  virtual bool looks_ahead() const = 0;

  /// An empty cache for one sequence. Throws a config error that names the rule where decoding is not possible.
  virtual std::unique_ptr<AttentionCache> make_cache() const = 0;
};

/// The attention of layer `layer`; `seed` (run.seed) keys random selection and random query sampling;
/// `inverse_frequencies` [D/2] are RoPE's, for the kinds that move positions (see moves_positions).
/// Throws a config error for a backend that the kind does not have.
std::unique_ptr<Attention> make_attention(const AttentionConfig& config, int64_t layer, uint64_t seed,
                                          const at::Tensor& inverse_frequencies = {});

}  // namespace dga

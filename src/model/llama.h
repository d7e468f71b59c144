#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "attention/config.h"
#include "attention/sequence_layout.h"
#include "model/block.h"
#include "model/llama_config.h"
#include "model/memory_config.h"
#include "model/rope.h"

namespace dga {

/// A weight under its Hugging Face name ("model.layers.0.self_attn.q_proj.weight").
struct NamedParameter {
  std::string name;
  at::Tensor value;
};

/// One decoder layer.
struct LlamaBlock {
  BlockWeights weights;
  std::unique_ptr<Attention> attention;
};

/// Keys and values of one sequence that is decoded token by token, all layers.
struct ModelCache {
  std::vector<std::unique_ptr<AttentionCache>> layers;
  int64_t length = 0;  // tokens so far
};

/// Called before a forward pass uses the weights of a layer, and with the number of layers before those of what
/// follows.
using BeforeLayer = std::function<void(int64_t layer)>;

/// LLaMA without the loss: embedding, decoder layers, final norm. Weights are leaves of autograd.
class Llama {
 public:
  /// Weights drawn from normal(0, initializer_range), norms 1. Each weight has a generator of its own, keyed by seed
  /// and name, and is drawn in fp32 on the CPU, so device, order and the other weights change nothing.
  Llama(const LlamaConfig& config, const AttentionConfig& attention, uint64_t seed, at::ScalarType dtype,
        at::Device device);
  /// Weights of a Hugging Face folder (see weights_io.h), cast to `dtype`. `config` is the folder's, perhaps with
  /// another RoPE; `seed` is for attention kinds that draw at random.
  static Llama load(const std::filesystem::path& folder, const LlamaConfig& config, const AttentionConfig& attention,
                    uint64_t seed, at::ScalarType dtype, at::Device device);
  ~Llama();
  Llama(Llama&&) noexcept;

  /// tokens [B, L] int64 -> hidden states after the final norm [B, L, hidden]. Positions restart at each start of the
  /// layout. On a CPU gradients have the same bits under every memory plan without tiles. The embedding is used before
  /// the first call of `before_layer`.
  at::Tensor forward(
      const at::Tensor& tokens, const SequenceLayout& layout, const MemoryConfig& memory = {},
      const BeforeLayer& before_layer = [](int64_t) {}) const;

  /// An empty cache. Throws a config error naming the rule for attention that cannot decode.
  ModelCache make_cache() const;
  /// The next T >= 1 tokens [1, T] of the cache's sequence -> hidden states [1, T, hidden]. No gradients.
  at::Tensor decode(const at::Tensor& tokens, ModelCache& cache) const;

  /// The output projection [V, hidden]; with tied embeddings the embedding itself.
  const at::Tensor& output_weight() const { return config_.tie_word_embeddings ? embedding_ : lm_head_; }
  /// All weights in a fixed order; a tied output weight appears once, as model.embed_tokens.weight. The tensors share
  /// memory with the model.
  std::vector<NamedParameter> parameters() const;

  const LlamaConfig& config() const { return config_; }
  const Attention& attention(int64_t layer) const { return *blocks_[layer].attention; }
  bool looks_ahead() const;  // whether any layer's attention does
  /// Query-key pairs per token at this sequence length, summed over the layers, for one head.
  double visible_pairs_per_token(int64_t length) const;
  at::ScalarType dtype() const { return embedding_.scalar_type(); }
  at::Device device() const { return embedding_.device(); }

 private:
  struct Empty {};
  Llama(Empty, const LlamaConfig& config, const AttentionConfig& attention, uint64_t seed, at::ScalarType dtype,
        at::Device device);
  BlockContext block_context(RopeAngles angles) const;

  LlamaConfig config_;
  at::Tensor embedding_;  // [V, hidden]
  std::vector<LlamaBlock> blocks_;
  at::Tensor final_norm_;  // [hidden]
  at::Tensor lm_head_;     // [V, hidden]; undefined where tied
  std::unique_ptr<RopeTable> rope_;
};

}  // namespace dga

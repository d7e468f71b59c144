#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "config/fields.h"
#include "model/llama_config.h"

namespace dga {

/// How RoPE is stretched, as a run's config spells it; `from_model` keeps what the model folder says (none without a
/// folder).
enum class RopeOverride { from_model, none, linear, ntk, yarn, llama3 };
inline config::Names<RopeOverride> enum_names(RopeOverride) {
  return {{RopeOverride::from_model, "from_model"},
          {RopeOverride::none, "none"},
          {RopeOverride::linear, "linear"},
          {RopeOverride::ntk, "ntk"},
          {RopeOverride::yarn, "yarn"},
          {RopeOverride::llama3, "llama3"}};
}

/// Section model.rope_scaling.
struct RopeScalingConfig {
  RopeOverride type = RopeOverride::from_model;
  std::optional<double> factor;                             // new length / original length
  std::optional<int64_t> original_max_position_embeddings;  // default: the model's max_position_embeddings
  std::optional<double> low_freq_factor;                    // llama3
  std::optional<double> high_freq_factor;                   // llama3
  std::optional<double> beta_fast;                          // yarn; 32
  std::optional<double> beta_slow;                          // yarn; 1
  std::optional<double> attention_factor;                   // yarn; default 0.1 ln(factor) + 1
  std::optional<double> mscale;                             // yarn
  std::optional<double> mscale_all_dim;                     // yarn
  bool truncate = true;                                     // yarn
  void fields(config::Fields& f);
  void check(config::Checker& c) const;
};

/// Section model: a Hugging Face folder to start from, or a shape whose weights are drawn at random.
struct ModelConfig {
  std::string path;
  std::optional<int64_t> vocab_size;
  std::optional<int64_t> hidden_size;
  std::optional<int64_t> intermediate_size;
  std::optional<int64_t> num_hidden_layers;
  std::optional<int64_t> num_attention_heads;
  std::optional<int64_t> num_key_value_heads;      // default: num_attention_heads
  std::optional<int64_t> head_dim;                 // default: hidden_size / num_attention_heads
  std::optional<int64_t> max_position_embeddings;  // default: 2048
  std::optional<double> rms_norm_eps;              // default: 1e-5
  std::optional<double> initializer_range;         // default: 0.02
  std::optional<double> rope_theta;                // default: 10000, or the folder's
  bool tie_word_embeddings = false;
  RopeScalingConfig rope_scaling;
  void fields(config::Fields& f);
  void check(config::Checker& c) const;
};

/// The model that the section describes: read from `path` (with the overrides of RoPE) or made of the given shape.
/// Throws an input error for an unusable folder (see read_hf_config).
LlamaConfig resolve_model(const ModelConfig& model);

}  // namespace dga

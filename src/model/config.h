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
  std::optional<double> factor;
  std::optional<int64_t> original_max_position_embeddings;
  std::optional<double> low_freq_factor;
  std::optional<double> high_freq_factor;
  std::optional<double> beta_fast;
  std::optional<double> beta_slow;
  std::optional<double> attention_factor;
  std::optional<double> mscale;
  std::optional<double> mscale_all_dim;
  bool truncate = true;

  void fields(config::Fields& f);
  void check(config::Checker& c) const;
};

/// Section model: a Hugging Face folder to start from, or a shape whose weights are drawn at random. Absent fields
/// take the default that their document names, or come from the folder.
struct ModelConfig {
  std::string path;
  std::optional<int64_t> vocab_size;
  std::optional<int64_t> hidden_size;
  std::optional<int64_t> intermediate_size;
  std::optional<int64_t> num_hidden_layers;
  std::optional<int64_t> num_attention_heads;
  std::optional<int64_t> num_key_value_heads;
  std::optional<int64_t> head_dim;
  std::optional<int64_t> max_position_embeddings;
  std::optional<double> rms_norm_eps;
  std::optional<double> initializer_range;
  std::optional<double> rope_theta;
  bool tie_word_embeddings = false;
  RopeScalingConfig rope_scaling;

  void fields(config::Fields& f);
  void check(config::Checker& c) const;
};

/// The model that the section describes: read from `path` (with the overrides of RoPE) or made of the given shape.
/// Throws an input error for an unusable folder (see read_hf_config).
LlamaConfig resolve_model(const ModelConfig& model);

}  // namespace dga

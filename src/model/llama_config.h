#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dga {

enum class RopeType { none, linear, ntk, yarn, llama3 };

/// How RoPE's frequencies are changed to reach beyond the length that the model was trained at.
struct RopeScaling {
  RopeType type = RopeType::none;
  double factor = 1.0;
  int64_t original_max_position_embeddings = 0;           // yarn, llama3
  double low_freq_factor = 1.0;                           // llama3
  double high_freq_factor = 4.0;                          // llama3
  double beta_fast = 32.0;                                // yarn
  double beta_slow = 1.0;                                 // yarn
  std::optional<double> attention_factor = std::nullopt;  // yarn; unset: from mscale or factor
  std::optional<double> mscale = std::nullopt;            // yarn
  std::optional<double> mscale_all_dim = std::nullopt;    // yarn
  bool truncate = true;                                   // yarn: whole dimensions as the ramp's ends
  bool operator==(const RopeScaling&) const = default;
};

/// Shape of a LLaMA model, under the names of Hugging Face's config.json.
struct LlamaConfig {
  int64_t vocab_size = 32000;
  int64_t hidden_size = 4096;
  int64_t intermediate_size = 11008;
  int64_t num_hidden_layers = 32;
  int64_t num_attention_heads = 32;
  int64_t num_key_value_heads = 32;
  int64_t head_dim = 128;
  int64_t max_position_embeddings = 2048;
  double rms_norm_eps = 1e-5;
  double initializer_range = 0.02;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  std::optional<int64_t> bos_token_id;  // kept for config.json; the tokenizer decides what the data holds
  std::vector<int64_t> eos_token_id;    // none, one or several
  std::optional<int64_t> pad_token_id;
  bool operator==(const LlamaConfig&) const = default;

  /// Number of weights; a tied output layer counts once.
  int64_t parameter_count() const;
  /// Weights that multiply each token: all but the norms and the input embedding (a tied one counts as the output
  /// layer).
  int64_t matmul_parameter_count() const;
};

/// Floating-point operations of training on one token: 6 for each matmul weight (2 forward, 4 backward) and
/// 12 H D for each query-key pair. `visible_pairs_per_token` is summed over the layers, for one head: dense attention
/// at length L has num_hidden_layers * (L + 1) / 2. Recomputation is not counted.
double flops_per_token(const LlamaConfig& config, double visible_pairs_per_token);

struct ShapeProblem {
  std::string field;    // "head_dim", "rope_scaling.factor"
  std::string message;  // what is wrong and what would be right
};
/// What no model can have: sizes below 1, an odd head_dim, heads that do not divide, RoPE out of range.
std::vector<ShapeProblem> shape_problems(const LlamaConfig& config);

}  // namespace dga

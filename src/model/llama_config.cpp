#include "model/llama_config.h"

#include "util/error.h"

namespace dga {
namespace {

int64_t layer_matmul_parameters(const LlamaConfig& c) {
  const int64_t heads = 2 * c.num_attention_heads + 2 * c.num_key_value_heads;  // q and o; k and v
  return c.hidden_size * c.head_dim * heads + 3 * c.hidden_size * c.intermediate_size;
}

}  // namespace

int64_t LlamaConfig::matmul_parameter_count() const {
  return num_hidden_layers * layer_matmul_parameters(*this) + vocab_size * hidden_size;
}

int64_t LlamaConfig::parameter_count() const {
  const int64_t norms = (2 * num_hidden_layers + 1) * hidden_size;
  const int64_t input_embedding = tie_word_embeddings ? 0 : vocab_size * hidden_size;
  return matmul_parameter_count() + norms + input_embedding;
}

double flops_per_token(const LlamaConfig& config, double visible_pairs_per_token) {
  const auto width = static_cast<double>(config.num_attention_heads * config.head_dim);
  return 6.0 * static_cast<double>(config.matmul_parameter_count()) + 12.0 * width * visible_pairs_per_token;
}

std::vector<ShapeProblem> shape_problems(const LlamaConfig& c) {
  std::vector<ShapeProblem> problems;
  const auto require = [&](bool condition, const char* field, const std::string& message) {
    if (!condition) problems.push_back({field, message});
  };
  const std::pair<const char*, int64_t> sizes[] = {{"vocab_size", c.vocab_size},
                                                   {"hidden_size", c.hidden_size},
                                                   {"intermediate_size", c.intermediate_size},
                                                   {"num_hidden_layers", c.num_hidden_layers},
                                                   {"num_attention_heads", c.num_attention_heads},
                                                   {"num_key_value_heads", c.num_key_value_heads},
                                                   {"head_dim", c.head_dim},
                                                   {"max_position_embeddings", c.max_position_embeddings}};
  for (const auto& [field, size] : sizes) require(size > 0, field, str("must be positive, got ", size));
  if (!problems.empty()) return problems;
  require(c.head_dim % 2 == 0, "head_dim", str("RoPE needs an even head_dim, got ", c.head_dim));
  require(c.num_attention_heads % c.num_key_value_heads == 0, "num_key_value_heads",
          str("must divide num_attention_heads (", c.num_attention_heads, "), got ", c.num_key_value_heads));
  require(c.hidden_size % c.num_attention_heads == 0, "hidden_size",
          str("must be a multiple of num_attention_heads (", c.num_attention_heads, ", as transformers demands), got ",
              c.hidden_size));
  require(c.rms_norm_eps > 0, "rms_norm_eps", str("must be positive, got ", c.rms_norm_eps));
  require(c.rope_theta > 1, "rope_theta", str("must be above 1, got ", c.rope_theta));
  const RopeScaling& rope = c.rope_scaling;
  if (rope.type == RopeType::none) return problems;
  require(rope.factor >= 1, "rope_scaling.factor", str("must be at least 1, got ", rope.factor));
  require(rope.type != RopeType::ntk || c.head_dim > 2, "rope_scaling.type", "ntk needs a head_dim above 2");
  if (rope.type == RopeType::yarn || rope.type == RopeType::llama3) {
    require(rope.original_max_position_embeddings > 0, "rope_scaling.original_max_position_embeddings",
            str("must be positive, got ", rope.original_max_position_embeddings));
  }
  if (rope.type == RopeType::llama3) {
    require(rope.low_freq_factor > 0 && rope.high_freq_factor > rope.low_freq_factor, "rope_scaling.high_freq_factor",
            str("must be above low_freq_factor (", rope.low_freq_factor, "), got ", rope.high_freq_factor));
  }
  return problems;
}

}  // namespace dga

#include "model/config.h"

#include <algorithm>
#include <cmath>

#include "model/hf_config.h"
#include "util/error.h"

namespace dga {
namespace {

RopeType type_of(RopeOverride type) {
  switch (type) {
    case RopeOverride::linear:
      return RopeType::linear;
    case RopeOverride::ntk:
      return RopeType::ntk;
    case RopeOverride::yarn:
      return RopeType::yarn;
    case RopeOverride::llama3:
      return RopeType::llama3;
    default:
      return RopeType::none;
  }
}

/// Puts the run's RoPE settings over those of the model.
void override_rope(const ModelConfig& model, LlamaConfig& config) {
  config.rope_theta = model.rope_theta.value_or(config.rope_theta);
  const RopeScalingConfig& wanted = model.rope_scaling;
  if (wanted.type != RopeOverride::from_model) {
    const int64_t trained_length = config.rope_scaling.original_max_position_embeddings > 0
                                       ? config.rope_scaling.original_max_position_embeddings
                                       : config.max_position_embeddings;
    RopeScaling rope;
    rope.type = type_of(wanted.type);
    rope.factor = wanted.factor.value_or(rope.factor);
    if (rope.type == RopeType::yarn || rope.type == RopeType::llama3) {
      rope.original_max_position_embeddings = wanted.original_max_position_embeddings.value_or(trained_length);
    }
    rope.low_freq_factor = wanted.low_freq_factor.value_or(rope.low_freq_factor);
    rope.high_freq_factor = wanted.high_freq_factor.value_or(rope.high_freq_factor);
    rope.beta_fast = wanted.beta_fast.value_or(rope.beta_fast);
    rope.beta_slow = wanted.beta_slow.value_or(rope.beta_slow);
    rope.attention_factor = wanted.attention_factor;
    rope.mscale = wanted.mscale;
    rope.mscale_all_dim = wanted.mscale_all_dim;
    rope.truncate = wanted.truncate;
    config.rope_scaling = rope;
    // The length that the model now reaches; it is what an exported folder declares.
    const double reached = std::round(rope.factor * static_cast<double>(trained_length));
    config.max_position_embeddings = std::max(config.max_position_embeddings, static_cast<int64_t>(reached));
  }
  config.max_position_embeddings = model.max_position_embeddings.value_or(config.max_position_embeddings);
}

LlamaConfig made_of_shape(const ModelConfig& model) {
  LlamaConfig config;
  config.vocab_size = model.vocab_size.value_or(0);
  config.hidden_size = model.hidden_size.value_or(0);
  config.intermediate_size = model.intermediate_size.value_or(0);
  config.num_hidden_layers = model.num_hidden_layers.value_or(0);
  config.num_attention_heads = model.num_attention_heads.value_or(0);
  config.num_key_value_heads = model.num_key_value_heads.value_or(config.num_attention_heads);
  config.head_dim = model.head_dim.value_or(config.hidden_size / std::max<int64_t>(1, config.num_attention_heads));
  config.max_position_embeddings = model.max_position_embeddings.value_or(config.max_position_embeddings);
  config.rms_norm_eps = model.rms_norm_eps.value_or(config.rms_norm_eps);
  config.initializer_range = model.initializer_range.value_or(config.initializer_range);
  config.tie_word_embeddings = model.tie_word_embeddings;
  override_rope(model, config);
  return config;
}

}  // namespace

void RopeScalingConfig::fields(config::Fields& f) {
  f.field("type", type,
          "how RoPE reaches beyond the trained length: from_model (as the folder says; none without one), none, linear "
          "(position interpolation), ntk (theta * factor^(D/(D-2))), yarn, llama3");
  f.field("factor", factor, "new length / trained length", config::at_least(1));
  f.field("original_max_position_embeddings", original_max_position_embeddings,
          "yarn, llama3: the trained length; default: the model's max_position_embeddings", config::at_least(1));
  f.field("low_freq_factor", low_freq_factor, "llama3: start of the smooth part; default 1", config::above(0));
  f.field("high_freq_factor", high_freq_factor, "llama3: end of the smooth part; default 4", config::above(0));
  f.field("beta_fast", beta_fast, "yarn: rotations above which a frequency is kept; default 32", config::above(0));
  f.field("beta_slow", beta_slow, "yarn: rotations below which a frequency is divided; default 1", config::above(0));
  f.field("attention_factor", attention_factor, "yarn: factor on cos and sin; default 0.1 ln(factor) + 1",
          config::above(0));
  f.field("mscale", mscale, "yarn: weight of ln(factor) in the attention factor, with mscale_all_dim",
          config::at_least(0));
  f.field("mscale_all_dim", mscale_all_dim, "yarn: the same in the attention factor's denominator",
          config::at_least(0));
  f.field("truncate", truncate, "yarn: round the ends of the ramp to whole dimensions");
}

void RopeScalingConfig::check(config::Checker& c) const {
  const bool scales = type != RopeOverride::from_model && type != RopeOverride::none;
  const std::string named = config::name_of(type);
  c.require(!scales || factor.has_value(), "factor", "is required with type " + named);
  c.require(scales || !factor, "factor",
            "has no effect with type " + named + "; set type to linear, ntk, yarn or llama3");
  const auto only_for = [&](bool given, const char* field, bool allowed, const char* types) {
    c.require(!given || allowed, field, str("has no effect with type ", named, "; it belongs to ", types));
  };
  const bool yarn = type == RopeOverride::yarn, llama3 = type == RopeOverride::llama3;
  only_for(original_max_position_embeddings.has_value(), "original_max_position_embeddings", yarn || llama3,
           "yarn and llama3");
  only_for(low_freq_factor.has_value(), "low_freq_factor", llama3, "llama3");
  only_for(high_freq_factor.has_value(), "high_freq_factor", llama3, "llama3");
  only_for(beta_fast.has_value(), "beta_fast", yarn, "yarn");
  only_for(beta_slow.has_value(), "beta_slow", yarn, "yarn");
  only_for(attention_factor.has_value(), "attention_factor", yarn, "yarn");
  only_for(mscale.has_value(), "mscale", yarn, "yarn");
  only_for(mscale_all_dim.has_value(), "mscale_all_dim", yarn, "yarn");
  only_for(!truncate, "truncate", yarn, "yarn");
}

void ModelConfig::fields(config::Fields& f) {
  f.field("path", path, "Hugging Face folder to start from; the shape then comes from its config.json");
  f.field("vocab_size", vocab_size, "tokens; required without path", config::at_least(1));
  f.field("hidden_size", hidden_size, "width; required without path", config::at_least(1));
  f.field("intermediate_size", intermediate_size, "width of SwiGLU; required without path", config::at_least(1));
  f.field("num_hidden_layers", num_hidden_layers, "layers; required without path", config::at_least(1));
  f.field("num_attention_heads", num_attention_heads, "query heads; required without path", config::at_least(1));
  f.field("num_key_value_heads", num_key_value_heads, "key-value heads; default: num_attention_heads",
          config::at_least(1));
  f.field("head_dim", head_dim, "width of a head; default: hidden_size / num_attention_heads", config::at_least(2));
  f.field("max_position_embeddings", max_position_embeddings,
          "length the model is made for, as exports declare it; default: 2048, or the folder's, times "
          "rope_scaling.factor",
          config::at_least(1));
  f.field("rms_norm_eps", rms_norm_eps, "added to the mean square in RMSNorm; default: 1e-5", config::above(0));
  f.field("initializer_range", initializer_range, "standard deviation of new weights; default: 0.02",
          config::at_least(0));
  f.field("rope_theta", rope_theta, "base of RoPE's frequencies; default: 10000, or the folder's", config::above(1));
  f.field("tie_word_embeddings", tie_word_embeddings, "the output layer is the embedding; without path only");
  f.section("rope_scaling", rope_scaling, "how RoPE is stretched");
}

void ModelConfig::check(config::Checker& c) const {
  const std::pair<const char*, bool> shape[] = {{"vocab_size", vocab_size.has_value()},
                                                {"hidden_size", hidden_size.has_value()},
                                                {"intermediate_size", intermediate_size.has_value()},
                                                {"num_hidden_layers", num_hidden_layers.has_value()},
                                                {"num_attention_heads", num_attention_heads.has_value()}};
  bool complete = true;
  for (const auto& [field, given] : shape) {
    if (path.empty()) {
      c.require(given, field, "is required unless model.path names a Hugging Face folder");
      complete = complete && given;
    } else {
      c.require(!given, field, "comes from model.path's config.json; leave it out");
    }
  }
  if (path.empty()) {
    if (!complete) return;
    for (const ShapeProblem& problem : shape_problems(made_of_shape(*this))) c.fail(problem.field, problem.message);
    return;
  }
  const std::pair<const char*, bool> rest[] = {{"num_key_value_heads", num_key_value_heads.has_value()},
                                               {"head_dim", head_dim.has_value()},
                                               {"rms_norm_eps", rms_norm_eps.has_value()},
                                               {"initializer_range", initializer_range.has_value()},
                                               {"tie_word_embeddings", tie_word_embeddings}};
  for (const auto& [field, given] : rest) c.require(!given, field, "comes from model.path's config.json; leave it out");
}

LlamaConfig resolve_model(const ModelConfig& model) {
  if (model.path.empty()) return made_of_shape(model);
  LlamaConfig config = read_hf_config(model.path);
  override_rope(model, config);
  for (const ShapeProblem& problem : shape_problems(config)) {
    fail(ExitCode::config, "model.", problem.field, ": ", problem.message, " (with ", model.path, "/config.json)");
  }
  return config;
}

}  // namespace dga

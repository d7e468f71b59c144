#include "eval/run_model.h"

#include <nlohmann/json.hpp>

#include "model/hf_config.h"
#include "model/weights_io.h"
#include "tensor/device.h"
#include "tensor/dtype.h"
#include "util/error.h"

namespace dga {
namespace {

/// A YAML scalar in double quotes; JSON's quoting is valid YAML.
std::string quoted(const std::string& text) { return nlohmann::json(text).dump(); }

}  // namespace

std::vector<std::string> model_folder_assignments(const std::filesystem::path& folder) {
  DGA_CHECK_INPUT(std::filesystem::is_directory(folder), folder.string(),
                  ": not a Hugging Face folder (config.json, *.safetensors)");
  std::vector<std::string> assignments{"model.path=" + quoted(folder.string()), "model.tie_word_embeddings=false",
                                       "model.rope_scaling.type=from_model", "model.rope_scaling.truncate=true"};
  for (const char* field : {"vocab_size",
                            "hidden_size",
                            "intermediate_size",
                            "num_hidden_layers",
                            "num_attention_heads",
                            "num_key_value_heads",
                            "head_dim",
                            "max_position_embeddings",
                            "rms_norm_eps",
                            "initializer_range",
                            "rope_theta",
                            "rope_scaling.factor",
                            "rope_scaling.original_max_position_embeddings",
                            "rope_scaling.low_freq_factor",
                            "rope_scaling.high_freq_factor",
                            "rope_scaling.beta_fast",
                            "rope_scaling.beta_slow",
                            "rope_scaling.attention_factor",
                            "rope_scaling.mscale",
                            "rope_scaling.mscale_all_dim"}) {
    assignments.push_back(str("model.", field, "=null"));
  }
  return assignments;
}

Llama load_run_model(const LoadedRun& run, const std::filesystem::path& weights) {
  const RunConfig& config = run.config;
  if (weights.empty() && config.model.path.empty()) {
    fail(ExitCode::config, "model: no weights to use; name a Hugging Face folder or a checkpoint");
  }
  const auto seed = static_cast<uint64_t>(config.run.seed);
  const at::ScalarType dtype = dtype_of_name(config::name_of(config.train.dtype));
  const at::Device device = select_device(config::name_of(config.run.device));
  if (weights.empty()) return Llama::load(config.model.path, run.model, config.attention, seed, dtype, device);
  Llama model(run.model, config.attention, seed, dtype, device);
  load_weights(weights, model.parameters(), run.model.tie_word_embeddings);
  return model;
}

std::shared_ptr<const Tokenizer> load_run_tokenizer(const RunConfig& config) {
  std::filesystem::path path = config.data.tokenizer;
  if (path.empty() && !config.model.path.empty()) path = find_tokenizer(config.model.path);
  return path.empty() ? nullptr : std::make_shared<const Tokenizer>(path);
}

}  // namespace dga

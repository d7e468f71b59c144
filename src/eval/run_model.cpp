#include "eval/run_model.h"

#include <nlohmann/json.hpp>

#include "model/hf_config.h"
#include "model/weights_io.h"
#include "tensor/device.h"
#include "tensor/dtype.h"
#include "tensor/parallel.h"
#include "util/error.h"
#include "util/file.h"
#include "util/hash.h"
#include "util/log.h"

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

Llama load_run_model(const LoadedRun& run) { return load_run_model(run, *make_single_communicator()); }

Llama load_run_model(const LoadedRun& run, const Communicator& ranks) {
  const RunConfig& config = run.config;
  if (config.model.path.empty()) fail(ExitCode::config, "model.path: name a Hugging Face folder to take weights from");
  set_math_threads(config.parallel.threads, ranks.local_world_size());
  return Llama::load(config.model.path, run.model, config.attention, static_cast<uint64_t>(config.run.seed),
                     dtype_of_name(config::name_of(config.train.dtype)),
                     select_device(config::name_of(config.run.device), ranks.local_rank()));
}

std::shared_ptr<const Tokenizer> load_run_tokenizer(const RunConfig& config) {
  const std::string& configured = config.data.tokenizer;
  const std::filesystem::path folder = config.model.path;
  if (configured.empty()) {
    const std::filesystem::path found = folder.empty() ? folder : find_tokenizer(folder);
    return found.empty() ? nullptr : std::make_shared<const Tokenizer>(found);
  }
  auto tokenizer = std::make_shared<const Tokenizer>(configured);
  const std::filesystem::path own = folder / "tokenizer.model";
  if (!folder.empty() && std::filesystem::exists(own) && hash_hex(read_file(own)) != hash_hex(read_file(configured))) {
    log::warning("data.tokenizer ", configured, " is not the model's own, ", own.string());
  }
  return tokenizer;
}

}  // namespace dga

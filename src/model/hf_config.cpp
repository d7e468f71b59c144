#include "model/hf_config.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "util/error.h"
#include "util/file.h"
#include "util/log.h"

namespace dga {
namespace {

using nlohmann::json;

/// Reads keys of one JSON object; errors name the file and the key.
class KeyReader {
 public:
  KeyReader(const json& object, std::string where) : object_(object), where_(std::move(where)) {}

  /// Whether the key is there and not null.
  bool has(const char* key) const { return object_.contains(key) && !object_[key].is_null(); }
  int64_t integer(const char* key) const {
    require(has(key), key, "is missing");
    require(object_[key].is_number_integer(), key, "must be an integer, got " + object_[key].dump());
    return object_[key].get<int64_t>();
  }
  int64_t integer(const char* key, int64_t absent) const { return has(key) ? integer(key) : absent; }
  double number(const char* key) const {
    require(has(key), key, "is missing");
    require(object_[key].is_number(), key, "must be a number, got " + object_[key].dump());
    return object_[key].get<double>();
  }
  double number(const char* key, double absent) const { return has(key) ? number(key) : absent; }
  bool flag(const char* key, bool absent) const {
    if (!has(key)) return absent;
    require(object_[key].is_boolean(), key, "must be true or false, got " + object_[key].dump());
    return object_[key].get<bool>();
  }
  std::string text(const char* key, const std::string& absent) const {
    if (!has(key)) return absent;
    require(object_[key].is_string(), key, "must be a string, got " + object_[key].dump());
    return object_[key].get<std::string>();
  }
  const json& value(const char* key) const { return object_[key]; }
  void require(bool condition, const std::string& key, const std::string& message) const {
    DGA_CHECK_INPUT(condition, where_, ": ", key, ": ", message);
  }
  const std::string& where() const { return where_; }

 private:
  const json& object_;
  std::string where_;
};

void refuse_unknown(const KeyReader& reader) {
  const std::string type = reader.text("model_type", "");
  reader.require(type == "llama", "model_type", "must be llama, got " + (type.empty() ? "none" : type));
  const std::string activation = reader.text("hidden_act", "silu");
  reader.require(activation == "silu" || activation == "swish", "hidden_act",
                 activation + " is not supported; only silu is");
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    reader.require(!reader.flag(key, false), key, "true is not supported; LLaMA layers here have no biases");
  }
  reader.require(!reader.has("quantization_config"), "quantization_config",
                 "quantised weights are not supported; fp32, fp16 and bf16 are");
  reader.require(!reader.has("sliding_window") || !reader.flag("use_sliding_window", true), "sliding_window",
                 "sliding-window models are not supported");
  reader.require(reader.number("partial_rotary_factor", 1.0) == 1.0, "partial_rotary_factor",
                 "must be 1; partial rotation is not supported");
  if (reader.has("layer_types")) {
    for (const json& layer : reader.value("layer_types")) {
      reader.require(layer == "full_attention", "layer_types", layer.dump() + " is not supported; full_attention is");
    }
  }
  if (reader.number("attention_dropout", 0.0) != 0.0) {
    log::warning(reader.where(), ": attention_dropout is ignored; there is no dropout here");
  }
  if (reader.has("auto_map")) {
    log::warning(reader.where(),
                 ": auto_map names code of its own, which is ignored; the model is read as plain LLaMA");
  }
}

RopeType rope_type(const KeyReader& rope) {
  const char* key = rope.has("rope_type") ? "rope_type" : "type";
  const std::string name = rope.text(key, "default");
  if (name == "default") return RopeType::none;
  if (name == "linear") return RopeType::linear;
  if (name == "yarn") return RopeType::yarn;
  rope.require(name == "llama3", key, name + " is not supported; default, linear, yarn and llama3 are");
  return RopeType::llama3;
}

std::optional<double> optional_number(const KeyReader& reader, const char* key) {
  return reader.has(key) ? std::optional(reader.number(key)) : std::nullopt;
}

void read_rope(const KeyReader& reader, LlamaConfig& config) {
  // As transformers 5 does: rope_scaling wins over rope_parameters, a theta inside over the one outside.
  const auto holds = [&](const char* key) { return reader.has(key) && !reader.value(key).empty(); };
  const char* key = holds("rope_scaling") ? "rope_scaling" : "rope_parameters";
  config.rope_theta = reader.number("rope_theta", 10000.0);
  if (!holds(key)) return;
  reader.require(reader.value(key).is_object(), key, "must be an object, got " + reader.value(key).dump());
  for (const auto& [name, entry] : reader.value(key).items()) {
    reader.require(!entry.is_object(), key, "RoPE that differs between layers (" + name + ") is not supported");
  }
  const KeyReader rope(reader.value(key), reader.where() + ": " + key);
  config.rope_theta = rope.number("rope_theta", config.rope_theta);
  rope.require(rope.number("partial_rotary_factor", 1.0) == 1.0, "partial_rotary_factor", "must be 1");
  RopeScaling& scaling = config.rope_scaling;
  scaling.type = rope_type(rope);
  if (scaling.type == RopeType::none) return;
  if (scaling.type == RopeType::yarn || scaling.type == RopeType::llama3) {
    const char* original = "original_max_position_embeddings";
    scaling.original_max_position_embeddings =
        reader.has(original) ? reader.integer(original) : rope.integer(original, config.max_position_embeddings);
    rope.require(scaling.original_max_position_embeddings > 0, original, "must be positive");
  }
  if (scaling.type == RopeType::yarn && !rope.has("factor")) {
    scaling.factor = static_cast<double>(config.max_position_embeddings) /
                     static_cast<double>(scaling.original_max_position_embeddings);
  } else {
    scaling.factor = rope.number("factor");
  }
  if (scaling.type == RopeType::llama3) {
    scaling.low_freq_factor = rope.number("low_freq_factor");
    scaling.high_freq_factor = rope.number("high_freq_factor");
  }
  if (scaling.type == RopeType::yarn) {
    scaling.beta_fast = rope.number("beta_fast", scaling.beta_fast);
    scaling.beta_slow = rope.number("beta_slow", scaling.beta_slow);
    scaling.attention_factor = optional_number(rope, "attention_factor");
    scaling.mscale = optional_number(rope, "mscale");
    scaling.mscale_all_dim = optional_number(rope, "mscale_all_dim");
    scaling.truncate = rope.flag("truncate", true);
  }
}

void read_special_tokens(const KeyReader& reader, const json& object, LlamaConfig& config) {
  // An absent key means transformers' default, null means none.
  const auto token = [&](const char* key, std::optional<int64_t> absent) -> std::optional<int64_t> {
    if (!object.contains(key)) return absent;
    return reader.has(key) ? std::optional(reader.integer(key)) : std::nullopt;
  };
  config.bos_token_id = token("bos_token_id", 1);
  config.pad_token_id = token("pad_token_id", std::nullopt);
  if (reader.has("eos_token_id") && reader.value("eos_token_id").is_array()) {
    for (const json& id : reader.value("eos_token_id")) {
      reader.require(id.is_number_integer(), "eos_token_id", "must hold integers, got " + id.dump());
      config.eos_token_id.push_back(id.get<int64_t>());
    }
  } else if (const std::optional<int64_t> id = token("eos_token_id", 2)) {
    config.eos_token_id = {*id};
  }
}

json rope_json(const LlamaConfig& config) {
  const RopeScaling& rope = config.rope_scaling;
  switch (rope.type) {
    case RopeType::none:
    case RopeType::ntk:
      return {{"rope_type", "default"}};
    case RopeType::linear:
      return {{"rope_type", "linear"}, {"factor", rope.factor}};
    case RopeType::llama3:
      return {{"rope_type", "llama3"},
              {"factor", rope.factor},
              {"low_freq_factor", rope.low_freq_factor},
              {"high_freq_factor", rope.high_freq_factor},
              {"original_max_position_embeddings", rope.original_max_position_embeddings}};
    case RopeType::yarn:
      break;
  }
  json yarn = {{"rope_type", "yarn"},
               {"factor", rope.factor},
               {"beta_fast", rope.beta_fast},
               {"beta_slow", rope.beta_slow},
               {"original_max_position_embeddings", rope.original_max_position_embeddings}};
  if (rope.attention_factor) yarn["attention_factor"] = *rope.attention_factor;
  if (rope.mscale) yarn["mscale"] = *rope.mscale;
  if (rope.mscale_all_dim) yarn["mscale_all_dim"] = *rope.mscale_all_dim;
  if (!rope.truncate) yarn["truncate"] = false;
  return yarn;
}

}  // namespace

json read_json_object(const std::filesystem::path& path) {
  json object = json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  DGA_CHECK_INPUT(object.is_object(), path.string(), ": is not a JSON object");
  return object;
}

LlamaConfig read_hf_config(const std::filesystem::path& folder) {
  DGA_CHECK_INPUT(std::filesystem::is_directory(folder), folder.string(),
                  ": no such folder; a model is a Hugging Face folder with config.json");
  const std::filesystem::path path = folder / "config.json";
  const json object = read_json_object(path);
  const KeyReader reader(object, path.string());
  refuse_unknown(reader);
  LlamaConfig config;
  config.vocab_size = reader.integer("vocab_size");
  config.hidden_size = reader.integer("hidden_size");
  config.intermediate_size = reader.integer("intermediate_size");
  config.num_hidden_layers = reader.integer("num_hidden_layers");
  config.num_attention_heads = reader.integer("num_attention_heads");
  reader.require(config.num_attention_heads > 0, "num_attention_heads", "must be positive");
  config.num_key_value_heads = reader.integer("num_key_value_heads", config.num_attention_heads);
  config.head_dim = reader.integer("head_dim", config.hidden_size / config.num_attention_heads);
  config.max_position_embeddings = reader.integer("max_position_embeddings", 2048);
  config.rms_norm_eps = reader.number("rms_norm_eps", 1e-6);
  config.initializer_range = reader.number("initializer_range", 0.02);
  config.tie_word_embeddings = reader.flag("tie_word_embeddings", false);
  read_special_tokens(reader, object, config);
  read_rope(reader, config);
  for (const ShapeProblem& problem : shape_problems(config)) reader.require(false, problem.field, problem.message);
  return config;
}

std::string read_hf_dtype(const std::filesystem::path& folder) {
  const json object = read_json_object(folder / "config.json");
  const KeyReader reader(object, (folder / "config.json").string());
  return reader.text("dtype", reader.text("torch_dtype", ""));
}

std::optional<std::string> read_recorded_attention(const std::filesystem::path& folder) {
  const nlohmann::json config = read_json_object(folder / "config.json");
  const auto found = config.find("dga_attention");
  if (found == config.end() || found->is_null()) return std::nullopt;
  DGA_CHECK_INPUT(found->is_object(), (folder / "config.json").string(), ": dga_attention: must be an object, got ",
                  found->type_name());
  return found->dump(2);  // with a space after each colon, which YAML wants
}

double ntk_theta(const LlamaConfig& config) {
  const auto dim = static_cast<double>(config.head_dim);
  return config.rope_theta * std::pow(config.rope_scaling.factor, dim / (dim - 2.0));
}

json hf_config_json(const LlamaConfig& config, const std::string& dtype, const json& attention) {
  const double theta = config.rope_scaling.type == RopeType::ntk ? ntk_theta(config) : config.rope_theta;
  const json rope = rope_json(config);
  json rope_parameters = rope;
  rope_parameters["rope_theta"] = theta;
  json object = {{"architectures", {"LlamaForCausalLM"}},
                 {"model_type", "llama"},
                 {"hidden_act", "silu"},
                 {"attention_bias", false},
                 {"mlp_bias", false},
                 {"vocab_size", config.vocab_size},
                 {"hidden_size", config.hidden_size},
                 {"intermediate_size", config.intermediate_size},
                 {"num_hidden_layers", config.num_hidden_layers},
                 {"num_attention_heads", config.num_attention_heads},
                 {"num_key_value_heads", config.num_key_value_heads},
                 {"head_dim", config.head_dim},
                 {"max_position_embeddings", config.max_position_embeddings},
                 {"rms_norm_eps", config.rms_norm_eps},
                 {"initializer_range", config.initializer_range},
                 {"tie_word_embeddings", config.tie_word_embeddings},
                 {"use_cache", true},
                 // transformers 4 reads rope_theta, rope_scaling and torch_dtype; 5 reads rope_parameters and dtype.
                 {"rope_theta", theta},
                 {"rope_scaling", rope["rope_type"] == "default" ? json() : rope},
                 {"rope_parameters", rope_parameters},
                 {"torch_dtype", dtype},
                 {"dtype", dtype},
                 {"bos_token_id", config.bos_token_id ? json(*config.bos_token_id) : json()},
                 {"pad_token_id", config.pad_token_id ? json(*config.pad_token_id) : json()},
                 {"eos_token_id", json()}};
  if (config.eos_token_id.size() == 1) object["eos_token_id"] = config.eos_token_id[0];
  if (config.eos_token_id.size() > 1) object["eos_token_id"] = config.eos_token_id;
  if (!attention.is_null()) object["dga_attention"] = attention;
  return object;
}

std::filesystem::path find_tokenizer(const std::filesystem::path& folder) {
  const std::filesystem::path model = folder / "tokenizer.model";
  if (std::filesystem::exists(model)) return model;
  DGA_CHECK_INPUT(!std::filesystem::exists(folder / "tokenizer.json"), folder.string(),
                  ": has tokenizer.json but no sentencepiece tokenizer.model, so text cannot be read; use token bins "
                  "(.u16, .u32) made with the model's own tokenizer");
  return {};
}

}  // namespace dga

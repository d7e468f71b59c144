#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "model/llama_config.h"

namespace dga {

/// Reads config.json of a Hugging Face folder in the form of transformers 4 (rope_theta, rope_scaling, torch_dtype) or
/// 5 (rope_parameters, dtype). Throws an input error naming file and key for anything that would change the numbers
/// and is not implemented: other architectures or activations, biases, dynamic or longrope scaling, quantisation,
/// sliding windows.
LlamaConfig read_hf_config(const std::filesystem::path& folder);

/// The dtype that config.json declares ("bfloat16", ...); empty where it declares none.
std::string read_hf_dtype(const std::filesystem::path& folder);

/// The settings under "dga_attention" of a folder's config.json, as a YAML flow mapping of section `attention`
/// ({"kind": "dga", ...}); nothing for a folder that dga did not write. They are the defaults of a run that starts
/// from the folder; the run's own config goes above them. Throws an input error if the entry is no mapping.
std::optional<std::string> read_recorded_attention(const std::filesystem::path& folder);

/// config.json for `config` that transformers 4 and 5 both load. `dtype` is Hugging Face's name ("float32", ...);
/// `attention` is recorded under "dga_attention" unless null. NTK-aware scaling becomes the rope_theta it stands for,
/// since Hugging Face has no such type.
nlohmann::json hf_config_json(const LlamaConfig& config, const std::string& dtype, const nlohmann::json& attention);

/// theta * factor^(D/(D-2)), the base that NTK-aware scaling uses.
double ntk_theta(const LlamaConfig& config);

/// The folder's tokenizer.model if it has one, else an empty path. A folder with tokenizer.json alone (Llama 3) throws
/// an input error that says what works instead: token bins.
std::filesystem::path find_tokenizer(const std::filesystem::path& folder);

/// A file that holds one JSON object. Throws an input error naming the file.
nlohmann::json read_json_object(const std::filesystem::path& path);

}  // namespace dga

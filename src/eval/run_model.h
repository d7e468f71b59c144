#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "model/llama.h"
#include "run/run_config.h"

namespace dga {

/// `--set` assignments that make a config evaluate the Hugging Face folder as it is: its path, and no shape or RoPE
/// from the config's own model section. Assignments that a user gives come after them.
std::vector<std::string> model_folder_assignments(const std::filesystem::path& folder);

/// The model that a config names, for use without training: weights of model.path, on run.device, in train.dtype.
/// With `weights`, a folder of safetensors (a checkpoint), the weights come from there instead, and model.path only
/// gives the shape. Throws a config error where neither names weights.
Llama load_run_model(const LoadedRun& run, const std::filesystem::path& weights = {});

/// data.tokenizer, else the tokenizer.model of model.path; null where there is neither.
std::shared_ptr<const Tokenizer> load_run_tokenizer(const RunConfig& config);

}  // namespace dga

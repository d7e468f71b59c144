#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "dist/communicator.h"
#include "model/llama.h"
#include "run/run_config.h"

namespace dga {

/// `--set` assignments that make a config evaluate the Hugging Face folder as it is: its path, and no shape or RoPE
/// from the config's own model section. Assignments that a user gives come after them.
std::vector<std::string> model_folder_assignments(const std::filesystem::path& folder);

/// The model under model.path, for use without training: on run.device (of several ranks each on a GPU of its own), in
/// train.dtype, with parallel.threads. Throws a config error where model.path is empty.
Llama load_run_model(const LoadedRun& run);
Llama load_run_model(const LoadedRun& run, const Communicator& ranks);

/// data.tokenizer, else the tokenizer.model of model.path; null where there is neither. Warns where both are there and
/// differ.
std::shared_ptr<const Tokenizer> load_run_tokenizer(const RunConfig& config);

}  // namespace dga

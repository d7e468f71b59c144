#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "data/config.h"
#include "data/loader.h"
#include "data/source_files.h"

namespace dga {

/// Everything that the sequence of global batches depends on, as flat JSON: part of the loader's state. Folders may
/// move: of the files, names and sizes count.
nlohmann::json describe_order(const DataConfig& config, const std::vector<std::vector<SourceFile>>& files,
                              const Tokenizer* tokenizer, const LoaderOptions& options);

/// Throws a config error naming each entry that differs.
void require_same_order(const nlohmann::json& saved, const nlohmann::json& now);

}  // namespace dga

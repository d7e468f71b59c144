#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "attention/config.h"

namespace dga {

/// The attention settings as exported folders record them: all that changes what is computed, so not the backend.
nlohmann::json attention_json(AttentionConfig attention);

/// The settings that a folder's config.json records, if it does. Throws a config error for settings that this version
/// does not know.
std::optional<AttentionConfig> recorded_attention(const std::filesystem::path& folder);

}  // namespace dga

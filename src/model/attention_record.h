#pragma once

#include <nlohmann/json_fwd.hpp>

#include "attention/config.h"

namespace dga {

/// The attention settings as exported folders record them: all that changes what is computed, so not the backend.
nlohmann::json attention_json(AttentionConfig attention);

}  // namespace dga

#pragma once

#include <cstdint>
#include <string>

#include "attention/config.h"

namespace dga {

/// The attention of a model in a few words for tables: "full", "streaming s4 w1024", "dga causal g.1 m16 B256 n2
/// entropy", and for layers of different kinds "full x4, dga ... x28". Settings that the rule ignores are left out.
std::string attention_label(const AttentionConfig& config, int64_t layers);

}  // namespace dga

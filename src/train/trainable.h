#pragma once

#include <string>
#include <vector>

#include "model/llama.h"
#include "optim/flat_layout.h"

namespace dga {

/// The parameters whose names match one of the patterns (*, ?, [..]; * also matches dots). Those require gradients
/// afterwards, the others do not. Throws a config error naming a pattern that matches none.
std::vector<TrainedParameter> select_trainable(const std::vector<NamedParameter>& parameters,
                                               const std::vector<std::string>& patterns);

}  // namespace dga

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/llama.h"
#include "optim/flat_layout.h"

namespace dga {

/// The parameters whose names match one of the patterns (*, ?, [..]; * also matches dots). Those require gradients
/// afterwards, the others do not. Throws a config error naming a pattern that matches none.
std::vector<TrainedParameter> select_trainable(const std::vector<NamedParameter>& parameters,
                                               const std::vector<std::string>& patterns);

/// How many of the trained parameters, which stand in the model's order, a forward pass has used at the end of each
/// layer, and behind these at its own end: [layers + 1].
std::vector<size_t> trained_through_layers(const std::vector<TrainedParameter>& trained, int64_t layers);

}  // namespace dga

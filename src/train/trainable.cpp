#include "train/trainable.h"

#include <fnmatch.h>

#include <algorithm>

#include "util/error.h"

namespace dga {
namespace {

bool matches(const std::string& pattern, const NamedParameter& parameter) {
  return fnmatch(pattern.c_str(), parameter.name.c_str(), 0) == 0;
}

}  // namespace

std::vector<TrainedParameter> select_trainable(const std::vector<NamedParameter>& parameters,
                                               const std::vector<std::string>& patterns) {
  for (const std::string& pattern : patterns) {
    const bool used =
        std::ranges::any_of(parameters, [&](const auto& parameter) { return matches(pattern, parameter); });
    if (used) continue;
    fail(ExitCode::config, "train.trainable: \"", pattern, "\" matches no parameter; names look like \"",
         parameters.front().name, "\" or \"", parameters[parameters.size() / 2].name, "\"");
  }
  std::vector<TrainedParameter> trained;
  for (const NamedParameter& parameter : parameters) {
    const bool selected =
        std::ranges::any_of(patterns, [&](const std::string& pattern) { return matches(pattern, parameter); });
    at::Tensor value = parameter.value;  // the same tensor, not a copy of its numbers
    value.set_requires_grad(selected);
    if (selected) trained.push_back({parameter.name, value});
  }
  return trained;
}

std::vector<size_t> trained_through_layers(const std::vector<TrainedParameter>& trained, int64_t layers) {
  std::vector<size_t> counts;
  size_t count = !trained.empty() && trained.front().name == "model.embed_tokens.weight" ? 1 : 0;
  for (int64_t layer = 0; layer < layers; ++layer) {
    const std::string prefix = str("model.layers.", layer, ".");
    while (count < trained.size() && trained[count].name.starts_with(prefix)) ++count;
    counts.push_back(count);
  }
  counts.push_back(trained.size());
  return counts;
}

}  // namespace dga

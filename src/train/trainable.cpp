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

}  // namespace dga

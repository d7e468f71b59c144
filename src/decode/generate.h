#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "decode/sampling.h"
#include "model/llama.h"

namespace dga {

struct GenerateOptions {
  int64_t max_new_tokens = 128;
  std::vector<int64_t> stop_tokens;  // ends the text; not returned
  SamplingOptions sampling;
};

/// Continues `prompt` (at least one token) with the KV cache and returns the new tokens; `on_token` sees each as soon
/// as it is drawn. Throws a config error naming the rule where the model's attention cannot decode, an input error for
/// an empty prompt or an id beyond the vocabulary.
std::vector<int32_t> generate(const Llama& model, const std::vector<int32_t>& prompt, const GenerateOptions& options,
                              const std::function<void(int32_t)>& on_token = {});

}  // namespace dga

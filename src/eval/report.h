#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "eval/perplexity.h"

namespace dga {

/// The result with every number that others need to repeat it; fields that do not apply are null.
nlohmann::json eval_json(const EvalResult& result);

/// Rows under one header, one row a context length: context, attention, visible pairs a token, scored tokens, stride,
/// NLL and its 95 % interval, perplexity, bits per byte and "looks ahead". Takes results as eval_json writes them, so
/// that results of several runs can stand in one table. Throws an input error for JSON that is no such result.
std::string eval_table(const std::vector<nlohmann::json>& results);

/// One line on the text of a result: documents, tokens, bytes, and the entropies of its tokens (see TextEntropy).
std::string eval_text_line(const nlohmann::json& result);

}  // namespace dga

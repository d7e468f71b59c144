#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace dga::config {

/// The candidate that a misspelt `word` most likely means (edit distance with swapped neighbours, at most a third of
/// the word), or an empty string.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

/// "a, b or c".
std::string join_choices(const std::vector<std::string>& choices);

}  // namespace dga::config

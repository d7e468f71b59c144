#pragma once

#include <string>

namespace dga {

/// LibTorch appends a stack trace to its messages; the user needs the first line.
inline std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

}  // namespace dga

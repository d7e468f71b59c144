#pragma once

#include <string_view>

#include "data/tokenizer.h"

namespace dga {

/// The character that stands for a space in pieces, U+2581.
constexpr std::string_view kSpaceMarker = "\xe2\x96\x81";

/// Whether the text's last character is a space to the model: sentencepiece cannot tell U+2581 from one.
inline bool ends_in_space(std::string_view text) { return text.ends_with(' ') || text.ends_with(kSpaceMarker); }

struct Tokenizer::Cuts {
  bool exact = false;             // a text may be cut where a space follows a non-space
  bool at_newline = false;        // ... and before a newline that does not follow a space
  bool add_dummy_prefix = false;  // encoding a text puts a space before it
};

}  // namespace dga

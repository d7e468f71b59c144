#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "data/problems.h"
#include "data/source_files.h"

namespace dga {

/// Position of the first byte that is no valid UTF-8 (no overlong forms, no surrogates, at most U+10FFFF).
std::optional<size_t> find_invalid_utf8(std::string_view bytes);

/// Text of a document, or why there is none (`line` is not set).
struct ExtractedText {
  std::string text;
  std::optional<Problem> problem;
};

/// The string in the top-level field `field` of a JSON object.
ExtractedText extract_json_text(std::string_view line, const std::string& field);
/// The text of one line of a jsonl file, or of the whole of a txt file.
ExtractedText extract_text(std::string_view line, const SourceFile& file);
/// The same for a line that begins at `begin` of `text`, without a copy of it where that can be.
ExtractedText extract_text(std::string&& text, size_t begin, const SourceFile& file);

}  // namespace dga

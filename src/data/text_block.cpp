#include "data/text_block.h"

#include <algorithm>
#include <utility>

#include "data/json_text.h"

namespace dga {
namespace {

EncodedBlock encode_piece(const TextBlock& block, Encoder& encoder) {
  EncodedBlock encoded;
  encoded.piece = true;
  const std::string_view text = std::string_view(*block.document).substr(block.begin, block.end - block.begin);
  encoder.append(text, block.begin == 0 ? TextPosition::document_start : TextPosition::after_cut, encoded.tokens);
  if (block.end == block.document->size()) {
    encoded.documents.push_back({0, static_cast<int64_t>(encoded.tokens.size()), block.document_line,
                                 static_cast<int64_t>(block.document->size())});
  }
  return encoded;
}

}  // namespace

EncodedBlock encode_block(TextBlock block, const SourceFile& file, Encoder& encoder) {
  if (block.document) return encode_piece(block, encoder);
  EncodedBlock encoded;
  encoded.problems = std::move(block.problems);
  for (const TextBlock::Line& line : block.lines) {
    ExtractedText extracted = extract_text(std::string_view(block.lines_text).substr(line.begin, line.size), file);
    if (extracted.problem) {
      extracted.problem->line = line.number;
      encoded.problems.push_back(std::move(*extracted.problem));
      continue;
    }
    const auto offset = static_cast<int64_t>(encoded.tokens.size());
    encoder.append(extracted.text, TextPosition::document_start, encoded.tokens);
    encoded.documents.push_back({offset, static_cast<int64_t>(encoded.tokens.size()) - offset, line.number,
                                 static_cast<int64_t>(extracted.text.size())});
  }
  std::stable_sort(encoded.problems.begin(), encoded.problems.end(),
                   [](const Problem& a, const Problem& b) { return a.line < b.line; });
  return encoded;
}

}  // namespace dga

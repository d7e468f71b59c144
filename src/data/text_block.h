#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/encoder.h"
#include "data/problems.h"
#include "data/source_files.h"
#include "data/token_file.h"

namespace dga {

/// A stretch of a text file that one thread encodes: some whole lines, or a piece of one document that is too long for
/// that.
struct TextBlock {
  struct Line {
    size_t begin = 0;
    size_t size = 0;
    int64_t number = 0;
  };
  std::string lines_text;
  std::vector<Line> lines;
  std::vector<Problem> problems;  // lines that could not even be read

  std::shared_ptr<const std::string> document;  // if set, this block is piece [begin, end) of it
  size_t begin = 0;
  size_t end = 0;
  int64_t document_line = 0;
};

/// Tokens of a block. Offsets of the documents count from the block's first token.
struct EncodedBlock {
  std::vector<int32_t> tokens;
  std::vector<TokenDocument> documents;
  std::vector<Problem> problems;  // in order of lines
  bool piece = false;             // `documents` has one entry if this is the document's last piece, else none
};

EncodedBlock encode_block(TextBlock block, const SourceFile& file, Encoder& encoder);

}  // namespace dga

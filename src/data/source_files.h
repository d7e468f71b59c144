#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/config.h"

namespace dga {

/// One file of a source, as it lay on disk when the source was listed.
struct SourceFile {
  std::filesystem::path path;
  SourceFormat format = SourceFormat::jsonl;  // never automatic
  int64_t size_bytes = 0;
  int64_t modified_ns = 0;
  std::string text_field;
  std::optional<int64_t> separator;

  bool is_text() const { return format == SourceFormat::jsonl || format == SourceFormat::txt; }
};

/// The files of a source, sorted by path, each once. Throws an input error for a glob that matches nothing, an ending
/// from which no format follows, or a compressed bin.
std::vector<SourceFile> list_files(const SourceConfig& source);

}  // namespace dga

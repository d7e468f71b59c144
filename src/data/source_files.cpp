#include "data/source_files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "util/error.h"
#include "util/file.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

SourceFormat format_of(const SourceConfig& source, const fs::path& path) {
  const bool compressed = path.extension() == ".zst" || path.extension() == ".gz";
  const fs::path ending = compressed ? path.stem().extension() : path.extension();
  SourceFormat format = source.format;
  if (format == SourceFormat::automatic) {
    if (ending == ".jsonl" || ending == ".json") {
      format = SourceFormat::jsonl;
    } else if (ending == ".txt") {
      format = SourceFormat::txt;
    } else if (ending == ".u16") {
      format = SourceFormat::u16;
    } else if (ending == ".u32") {
      format = SourceFormat::u32;
    } else {
      fail(ExitCode::input, path.string(), ": the format of source \"", source.name,
           "\" does not follow from the ending; set format to jsonl, txt, u16 or u32");
    }
  }
  const bool text = format == SourceFormat::jsonl || format == SourceFormat::txt;
  DGA_CHECK_INPUT(text || !compressed, path.string(), ": token bins are mapped into memory and cannot be compressed");
  DGA_CHECK_INPUT(!text || !source.separator, path.string(), ": source \"", source.name,
                  "\" has a separator, but this is no token bin");
  return format;
}

SourceFile describe_file(const SourceConfig& source, const fs::path& path) {
  struct stat status {};
  DGA_CHECK_INPUT(stat(path.c_str(), &status) == 0, path.string(), ": ", std::strerror(errno));
  DGA_CHECK_INPUT(!S_ISDIR(status.st_mode), path.string(), " is a folder; data paths name files, e.g. ",
                  (path / "*.jsonl.zst").string());
  SourceFile file;
  file.path = path;
  file.format = format_of(source, path);
  file.size_bytes = status.st_size;
  file.modified_ns = int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
  file.text_field = source.text_field;
  file.separator = source.separator;
  return file;
}

}  // namespace

std::vector<SourceFile> list_files(const SourceConfig& source) {
  std::vector<fs::path> paths;
  for (const std::string& pattern : source.paths) {
    const std::vector<fs::path> matches = expand_glob(pattern);
    DGA_CHECK_INPUT(!matches.empty(), "source \"", source.name, "\": no file matches ", pattern);
    paths.insert(paths.end(), matches.begin(), matches.end());
  }
  std::sort(paths.begin(), paths.end());
  paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
  std::vector<SourceFile> files;
  files.reserve(paths.size());
  for (const fs::path& path : paths) files.push_back(describe_file(source, path));
  return files;
}

}  // namespace dga

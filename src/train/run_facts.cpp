#include "train/run_facts.h"

#include <algorithm>
#include <array>

#include "data/source_files.h"
#include "run/build_info.h"
#include "train/config_difference.h"
#include "util/error.h"
#include "util/file.h"
#include "util/hash.h"

namespace dga {
namespace {

namespace fs = std::filesystem;

/// Fields that each host or process may have for itself. Whether run.folder is the same place is seen by looking.
bool may_differ(const std::string& path) {
  static constexpr std::array kOwn = {"run.folder", "data.cache", "data.tokenizer_threads", "parallel.threads", "log."};
  return std::ranges::any_of(kOwn, [&](const char* prefix) { return path.starts_with(prefix); });
}

/// Names and sizes of files as one line: how many, how large, and a hash that tells others apart.
std::string listing(const std::vector<std::pair<std::string, int64_t>>& files) {
  std::string text;
  int64_t bytes = 0;
  for (const auto& [name, size] : files) {
    text += str(name, " ", size, "\n");
    bytes += size;
  }
  return str(files.size(), " files, ", bytes, " bytes, hash ", hash_hex(text).substr(0, 8));
}

std::string source_listing(const SourceConfig& source) {
  std::vector<std::pair<std::string, int64_t>> files;
  for (const SourceFile& file : list_files(source)) files.emplace_back(file.path.string(), file.size_bytes);
  return listing(files);
}

std::string weights_listing(const fs::path& folder) {
  std::vector<std::pair<std::string, int64_t>> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".safetensors") continue;
    files.emplace_back(entry.path().filename().string(), static_cast<int64_t>(entry.file_size()));
  }
  std::ranges::sort(files);
  return listing(files);
}

void add_build(Facts& facts) {
  const BuildInfo& build = build_info();
  facts.emplace_back("the version of dga", build.version);
  facts.emplace_back("the commit of dga", build.commit);
  facts.emplace_back("the build of dga", str(build.build_type, build.cuda ? ", CUDA" : ", no CUDA"));
  for (const auto& [name, version] : build.libraries) facts.emplace_back("the version of " + name, version);
}

void add_sources(Facts& facts, const char* section, const std::vector<SourceConfig>& sources) {
  for (size_t i = 0; i < sources.size(); ++i) {
    facts.emplace_back(str(section, ".sources[", i, "], by its files,"), source_listing(sources[i]));
  }
}

}  // namespace

Facts run_facts(const LoadedRun& run, const Tokenizer* tokenizer) {
  Facts facts;
  add_build(facts);
  for (const auto& [path, value] : flatten(run.config)) {
    if (!may_differ(path)) facts.emplace_back(path, value);
  }
  if (!run.config.model.path.empty()) {
    facts.emplace_back("model.path, by its files,", weights_listing(run.config.model.path));
  }
  if (tokenizer != nullptr) {
    facts.emplace_back("the tokenizer, by its hash,", hash_hex(read_file(tokenizer->path())).substr(0, 8));
  }
  add_sources(facts, "data", run.config.data.sources);
  if (run.config.eval.every_steps > 0) add_sources(facts, "eval", run.config.eval.sources);
  return facts;
}

}  // namespace dga

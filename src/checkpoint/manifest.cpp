#include "checkpoint/manifest.h"

#include <nlohmann/json.hpp>

#include "util/error.h"
#include "util/file.h"
#include "util/hash.h"
#include "util/mapped_file.h"

namespace dga {
namespace fs = std::filesystem;

std::map<std::string, FileRecord> record_files(const fs::path& folder) {
  std::map<std::string, FileRecord> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    const std::string name = fs::relative(entry.path(), folder).generic_string();
    if (entry.is_directory() || name == kManifestName) continue;
    const MappedFile file(entry.path());
    files[name] = {static_cast<int64_t>(file.bytes().size()), hash_hex(file.bytes())};
  }
  return files;
}

std::string manifest_text(const Manifest& manifest) {
  nlohmann::json body = {{"format", 1}, {"step", manifest.step}, {"files", nlohmann::json::object()}};
  for (const auto& [name, record] : manifest.files) {
    body["files"][name] = {{"bytes", record.size_bytes}, {"xxh3_128", record.checksum}};
  }
  body["manifest_xxh3_128"] = hash_hex(body.dump());
  return body.dump(2) + "\n";
}

Manifest read_manifest(const fs::path& folder) {
  const fs::path path = folder / kManifestName;
  DGA_CHECK_INPUT(fs::exists(path), folder.string(), " is incomplete: it has no ", kManifestName);
  const std::string text = read_file(path);
  Manifest manifest;
  try {
    const nlohmann::json body = nlohmann::json::parse(text);
    manifest.step = body.at("step").get<int64_t>();
    for (const auto& [name, record] : body.at("files").items()) {
      manifest.files[name] = {record.at("bytes").get<int64_t>(), record.at("xxh3_128").get<std::string>()};
    }
  } catch (const nlohmann::json::exception&) {
    fail(ExitCode::input, path.string(), " is damaged: it is no manifest");
  }
  DGA_CHECK_INPUT(text == manifest_text(manifest), path.string(), " is damaged: its checksum does not match");
  return manifest;
}

}  // namespace dga

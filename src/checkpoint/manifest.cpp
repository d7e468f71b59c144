#include "checkpoint/manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "util/error.h"
#include "util/file.h"
#include "util/hash.h"
#include "util/mapped_file.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

nlohmann::json records_json(const std::map<std::string, FileRecord>& files) {
  nlohmann::json json = nlohmann::json::object();
  for (const auto& [name, record] : files) json[name] = {{"bytes", record.size_bytes}, {"xxh3_128", record.checksum}};
  return json;
}

std::map<std::string, FileRecord> records_of_json(const nlohmann::json& json) {
  std::map<std::string, FileRecord> files;
  for (const auto& [name, record] : json.items()) {
    files[name] = {record.at("bytes").get<int64_t>(), record.at("xxh3_128").get<std::string>()};
  }
  return files;
}

}  // namespace

FileRecord record_file(const fs::path& path) {
  const MappedFile file(path);
  return {static_cast<int64_t>(file.bytes().size()), hash_hex(file.bytes())};
}

std::vector<std::string> list_files(const fs::path& folder) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    const std::string name = fs::relative(entry.path(), folder).generic_string();
    if (!entry.is_directory() && name != kManifestName) names.push_back(name);
  }
  std::ranges::sort(names);
  return names;
}

std::map<std::string, FileRecord> record_files(const fs::path& folder) {
  std::map<std::string, FileRecord> files;
  for (const std::string& name : list_files(folder)) files[name] = record_file(folder / name);
  return files;
}

std::string records_text(const std::map<std::string, FileRecord>& files) { return records_json(files).dump(); }

std::map<std::string, FileRecord> records_of(const std::string& text) {
  return records_of_json(nlohmann::json::parse(text));
}

std::string manifest_text(const Manifest& manifest) {
  nlohmann::json body = {{"format", 1}, {"step", manifest.step}, {"files", records_json(manifest.files)}};
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
    manifest.files = records_of_json(body.at("files"));
  } catch (const nlohmann::json::exception&) {
    fail(ExitCode::input, path.string(), " is damaged: it is no manifest");
  }
  DGA_CHECK_INPUT(text == manifest_text(manifest), path.string(), " is damaged: its checksum does not match");
  return manifest;
}

}  // namespace dga

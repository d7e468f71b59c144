#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

namespace dga {

constexpr const char* kManifestName = "manifest.json";

struct FileRecord {
  int64_t size_bytes = 0;
  std::string checksum;  // XXH3-128
};

/// What a complete checkpoint holds.
struct Manifest {
  int64_t step = 0;
  std::map<std::string, FileRecord> files;  // by name relative to the checkpoint's folder
};

/// Size and checksum of every file below `folder` but the manifest.
std::map<std::string, FileRecord> record_files(const std::filesystem::path& folder);

/// The manifest's bytes, closed by a checksum of their own.
std::string manifest_text(const Manifest& manifest);

/// Reads folder/manifest.json. Throws an input error where it is missing or not, byte for byte, what manifest_text()
/// writes.
Manifest read_manifest(const std::filesystem::path& folder);

}  // namespace dga

#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

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

/// Reads a file.
FileRecord record_file(const std::filesystem::path& path);

/// Names of all files below `folder` but the manifest, sorted.
std::vector<std::string> list_files(const std::filesystem::path& folder);

/// Size and checksum of every one of them.
std::map<std::string, FileRecord> record_files(const std::filesystem::path& folder);

/// The records as a text, and back.
std::string records_text(const std::map<std::string, FileRecord>& files);
std::map<std::string, FileRecord> records_of(const std::string& text);

/// The manifest's bytes, closed by a checksum of their own.
std::string manifest_text(const Manifest& manifest);

/// Reads folder/manifest.json. Throws an input error where it is missing or not, byte for byte, what manifest_text()
/// writes.
Manifest read_manifest(const std::filesystem::path& folder);

}  // namespace dga

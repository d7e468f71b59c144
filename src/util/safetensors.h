#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "util/file.h"
#include "util/mapped_file.h"

namespace dga {

/// One tensor of a safetensors file: element type as the format writes it (F64 F32 F16 BF16 I64 I32 U8 BOOL ...),
/// shape, and its row-major little-endian bytes.
struct TensorView {
  std::string dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

/// A memory-mapped safetensors file (format: 8 bytes little-endian header length, JSON header, data).
/// Throws an input error that names the file and what is wrong: truncated, offsets that overlap, leave gaps or
/// disagree with the shape, header that is no JSON.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  MappedFile file_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// Bytes of one element. Throws on an unknown type, naming it.
int64_t safetensors_element_bytes(const std::string& dtype);

/// Type and shape of a tensor that is still to come.
struct TensorSpec {
  std::string dtype;
  std::vector<int64_t> shape;
};

/// A safetensors file written front to back, a tensor at a time, in the order of the map (not atomically, like
/// write_safetensors).
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, const std::map<std::string, TensorSpec>& specs,
                    const std::map<std::string, std::string>& metadata);
  /// The bytes of the next tensor. Throws where they are more or fewer than its shape and type give.
  void write(std::span<const std::byte> bytes);
  /// Syncs and closes once all tensors are written.
  void close_synced();

 private:
  OutputFile file_;
  std::vector<std::pair<std::string, uint64_t>> expected_;  // names and bytes
  size_t written_ = 0;
};

/// Writes and syncs `path` (not atomically; callers write into a folder or name of their own and rename).
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, TensorView>& tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace dga

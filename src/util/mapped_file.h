#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace dga {

/// A whole file mapped read-only into memory. Movable; unmapped on destruction.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws an input error naming the path; an empty file maps to an empty span.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_bytes_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace dga

#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace dga {

/// Bytes of a file from front to back, decompressed.
class ByteStream {
 public:
  virtual ~ByteStream() = default;
  /// Fills the front of `buffer` and returns how many bytes; 0 at the end. Throws DamagedFile, and an input error where
  /// the system cannot read.
  virtual size_t read(std::span<char> buffer) = 0;
};

/// Compressed bytes that do not decompress or end too early: what is so at every reading. What may be otherwise the
/// next time, such as an I/O error, is an Error.
class DamagedFile : public std::exception {
 public:
  explicit DamagedFile(std::string what) : what_(std::move(what)) {}
  const char* what() const noexcept override { return what_.c_str(); }

 private:
  std::string what_;
};

/// Opens a file; .zst (any number of frames, windows up to 2^31) and .gz (any number of members) are decompressed.
/// Throws an input error where it cannot be opened.
std::unique_ptr<ByteStream> open_bytes(const std::filesystem::path& path);

/// Lines of a file, of any length up to a limit; memory is one line and a fixed buffer.
class LineReader {
 public:
  enum class Unit { line, file };
  enum class Result { line, too_long, end };

  /// With Unit::file the whole file is one line. Throws an input error where the file cannot be opened.
  LineReader(const std::filesystem::path& path, int64_t max_line_bytes, Unit unit);

  /// Appends the next line, without its end, to `text`. A line that is too long is passed over and not appended.
  /// Throws DamagedFile; what came before was good, the line begun is lost. Throws an input error where the system
  /// cannot read.
  Result append_next(std::string& text);
  /// Number, from 1, of the line that append_next was about last.
  int64_t line() const { return line_; }
  /// Length of that line in bytes.
  int64_t line_bytes() const { return line_bytes_; }

 private:
  std::unique_ptr<ByteStream> bytes_;
  int64_t max_line_bytes_;
  Unit unit_;
  std::vector<char> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
  int64_t line_ = 0;
  int64_t line_bytes_ = 0;
};

}  // namespace dga

#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dga {

/// Whole file as bytes. Throws an input error naming the path.
std::string read_file(const std::filesystem::path& path);

/// Replaces `path` in one step: written to a temporary name beside it, synced, renamed, folder synced.
void write_file_atomic(const std::filesystem::path& path, std::string_view bytes);

/// Flushes a file's or folder's contents to the disk.
void sync_path(const std::filesystem::path& path);

/// Renames `from` to `to` (replacing a file) and syncs the folder, so that the new name survives a power loss.
void rename_synced(const std::filesystem::path& from, const std::filesystem::path& to);

/// Whether the path names the file that is open as `descriptor`, which may have been removed or renamed since.
bool is_file_of(const std::filesystem::path& path, int descriptor);

/// Fills `bytes` from place `at` of a file. False where that fails; errno says why, 0 that the file ends before.
bool read_at(int descriptor, std::span<std::byte> bytes, int64_t at);

/// Files that match a glob (`*`, `?`, `[..]`, `{a,b}`, a leading `~`; `**` is not special), each once, sorted by their
/// bytes; a folder or plain path matches itself.
std::vector<std::filesystem::path> expand_glob(const std::string& pattern);

/// An open file written from front to back; every failure throws with the path (a full disk included).
class OutputFile {
 public:
  explicit OutputFile(const std::filesystem::path& path, bool append = false);
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile();

  void write(const void* bytes, size_t size_bytes);
  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }
  /// fsync, then close. Without it the destructor closes unsynced.
  void close_synced();

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace dga

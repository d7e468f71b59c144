#include "util/file.h"

#include <fcntl.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "util/error.h"

namespace dga {
namespace fs = std::filesystem;

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  DGA_CHECK_INPUT(in && !fs::is_directory(path), "cannot read ", path.string(), ": ", std::strerror(errno));
  std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  DGA_CHECK_INPUT(!in.bad(), "cannot read ", path.string(), ": ", std::strerror(errno));
  return bytes;
}

void sync_path(const fs::path& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  DGA_CHECK(descriptor >= 0, "cannot open ", path.string(), ": ", std::strerror(errno));
  const int result = fsync(descriptor);
  const int error = errno;
  close(descriptor);
  DGA_CHECK(result == 0, "cannot sync ", path.string(), ": ", std::strerror(error));
}

void rename_synced(const fs::path& from, const fs::path& to) {
  DGA_CHECK(std::rename(from.c_str(), to.c_str()) == 0, "cannot rename ", from.string(), " to ", to.string(), ": ",
            std::strerror(errno));
  sync_path(to.has_parent_path() ? to.parent_path() : fs::path("."));
}

void write_file_atomic(const fs::path& path, std::string_view bytes) {
  const fs::path temporary = str(path.string(), ".tmp.", getpid());
  try {
    OutputFile out(temporary);
    out.write(bytes);
    out.close_synced();
    rename_synced(temporary, path);
  } catch (...) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
}

bool is_file_of(const fs::path& path, int descriptor) {
  struct stat by_path {};
  struct stat by_descriptor {};
  return stat(path.c_str(), &by_path) == 0 && fstat(descriptor, &by_descriptor) == 0 &&
         by_path.st_ino == by_descriptor.st_ino && by_path.st_dev == by_descriptor.st_dev;
}

bool read_at(int descriptor, std::span<std::byte> bytes, int64_t at) {
  while (!bytes.empty()) {
    const ssize_t count = pread(descriptor, bytes.data(), bytes.size(), at);
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) errno = 0;
    if (count <= 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(count));
    at += count;
  }
  return true;
}

std::vector<fs::path> expand_glob(const std::string& pattern) {
  glob_t matches{};
  const int result = glob(pattern.c_str(), GLOB_BRACE | GLOB_TILDE, nullptr, &matches);
  std::vector<fs::path> paths;
  if (result == 0) paths.assign(matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
  globfree(&matches);
  DGA_CHECK_INPUT(result == 0 || result == GLOB_NOMATCH, "cannot list ", pattern, ": ", std::strerror(errno));
  // The alternatives of a brace come one after the other and may overlap.
  std::sort(paths.begin(), paths.end());
  paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
  return paths;
}

OutputFile::OutputFile(const fs::path& path, bool append) : path_(path) {
  descriptor_ = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | (append ? O_APPEND : O_TRUNC), 0644);
  DGA_CHECK(descriptor_ >= 0, "cannot write ", path.string(), ": ", std::strerror(errno));
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

void OutputFile::write(const void* bytes, size_t size_bytes) {
  const char* next = static_cast<const char*>(bytes);
  while (size_bytes > 0) {
    const ssize_t written = ::write(descriptor_, next, size_bytes);
    if (written < 0 && errno == EINTR) continue;
    DGA_CHECK(written >= 0, "cannot write ", path_.string(), ": ", std::strerror(errno));
    next += written;
    size_bytes -= static_cast<size_t>(written);
  }
}

void OutputFile::close_synced() {
  DGA_CHECK(fsync(descriptor_) == 0, "cannot sync ", path_.string(), ": ", std::strerror(errno));
  const int result = close(descriptor_);
  descriptor_ = -1;
  DGA_CHECK(result == 0, "cannot close ", path_.string(), ": ", std::strerror(errno));
}

}  // namespace dga

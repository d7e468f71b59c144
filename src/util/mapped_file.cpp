#include "util/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "util/error.h"

namespace dga {

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  DGA_CHECK_INPUT(descriptor >= 0, "cannot read ", path.string(), ": ", std::strerror(errno));
  struct stat status {};
  if (fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode)) size_bytes_ = static_cast<size_t>(status.st_size);
  void* address = nullptr;
  if (size_bytes_ > 0) address = mmap(nullptr, size_bytes_, PROT_READ, MAP_SHARED, descriptor, 0);
  const int error = errno;
  close(descriptor);
  DGA_CHECK_INPUT(S_ISREG(status.st_mode), path.string(), " is not a regular file");
  DGA_CHECK_INPUT(address != MAP_FAILED, "cannot map ", path.string(), ": ", std::strerror(error));
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_bytes_);
}

}  // namespace dga

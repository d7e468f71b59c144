#include "util/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "util/error.h"

namespace dga {

FolderLock::FolderLock(const std::filesystem::path& folder, const std::string& busy) {
  std::filesystem::create_directories(folder);
  descriptor_ = open((folder / ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  DGA_CHECK(descriptor_ >= 0, "cannot write in ", folder.string());
  if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    close(descriptor_);
    fail(ExitCode::config, busy);
  }
}

FolderLock::~FolderLock() { close(descriptor_); }

}  // namespace dga

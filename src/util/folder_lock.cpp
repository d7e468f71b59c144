#include "util/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "util/error.h"
#include "util/log.h"

namespace dga {

FolderLock::FolderLock(const std::filesystem::path& folder, const std::string& busy) {
  std::filesystem::create_directories(folder);
  descriptor_ = open((folder / ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  DGA_CHECK(descriptor_ >= 0, "cannot write in ", folder.string(), ": ", std::strerror(errno));
  if (flock(descriptor_, LOCK_EX | LOCK_NB) == 0) return;
  if (errno != EWOULDBLOCK) {  // a file system without locks
    log::warning("cannot lock ", folder.string(), ": ", std::strerror(errno), "; nothing keeps a second process out");
    return;
  }
  close(descriptor_);
  fail(ExitCode::config, busy);
}

FolderLock::~FolderLock() { close(descriptor_); }

}  // namespace dga

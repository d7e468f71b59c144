#pragma once

#include <filesystem>
#include <string>

namespace dga {

/// Held while a process works in a folder, by a lock on its file `.lock`; the system lets go of it however the process
/// ends.
class FolderLock {
 public:
  /// Makes the folder where it is missing. Throws a config error saying `busy` where another process holds the lock; a
  /// file system that has no locks gets a warning.
  FolderLock(const std::filesystem::path& folder, const std::string& busy);
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock();

 private:
  int descriptor_ = -1;
};

}  // namespace dga

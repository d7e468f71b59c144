#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace dga {

/// A child process that does not outlive this one: it gets SIGTERM when the thread that made it ends, and so when this
/// process ends, however that happens. It is in a process group of its own, so that Ctrl-C in the terminal reaches this
/// process alone, which passes it on once.
class ChildProcess {
 public:
  /// Starts words[0] with `environment` ("NAME=value") added to that of this process; stdout and stderr go to the end
  /// of `output`, or where those of this process go if it is empty; stdin is empty.
  ChildProcess(const std::vector<std::string>& words, const std::vector<std::string>& environment,
               const std::filesystem::path& output = {});
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess();

  pid_t id() const { return id_; }
  void send(int signal) const;
  /// The exit code once it has ended, or minus the number of the signal that ended it; does not wait.
  std::optional<int> exit_code();

 private:
  pid_t id_ = -1;  // -1: ended
};

/// This host's name.
std::string host_name();

}  // namespace dga

#include "util/process.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <utility>

#include "util/error.h"

namespace dga {
namespace {

constexpr int kCannotStart = 127;

/// What the child does between fork and exec.
[[noreturn]] void become(char* const* words, const std::vector<std::string>& environment, int input, int output,
                         pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(kCannotStart);  // it ended before the line above
  for (const std::string& entry : environment) putenv(const_cast<char*>(entry.c_str()));
  dup2(input, STDIN_FILENO);
  if (output >= 0) {
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
  }
  execv(words[0], words);
  dprintf(STDERR_FILENO, "error: cannot start %s: %s\n", words[0], std::strerror(errno));
  _exit(kCannotStart);
}

}  // namespace

ChildProcess::ChildProcess(const std::vector<std::string>& words, const std::vector<std::string>& environment,
                           const std::filesystem::path& output) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const int sink = output.empty() ? -1 : open(output.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  DGA_CHECK(sink >= 0 || output.empty(), "cannot write ", output.string(), ": ", std::strerror(errno));
  const int source = open("/dev/null", O_RDONLY | O_CLOEXEC);
  const pid_t parent = getpid();
  id_ = fork();
  if (id_ == 0) become(arguments.data(), environment, source, sink, parent);
  if (sink >= 0) close(sink);
  close(source);
  DGA_CHECK(id_ > 0, "cannot start a process for ", words[0], ": ", std::strerror(errno));
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept : id_(std::exchange(other.id_, -1)) {}

ChildProcess::~ChildProcess() {
  if (id_ == -1) return;
  kill(id_, SIGTERM);
  waitpid(id_, nullptr, 0);
}

void ChildProcess::send(int signal) const {
  if (id_ != -1) kill(id_, signal);
}

std::optional<int> ChildProcess::exit_code() {
  int status = 0;
  const pid_t ended = waitpid(id_, &status, WNOHANG);
  DGA_CHECK(ended >= 0, "process ", id_, " cannot be waited for: ", std::strerror(errno));  // where SIGCHLD is ignored
  if (ended == 0) return std::nullopt;
  id_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

std::string host_name() {
  char name[HOST_NAME_MAX + 1] = "localhost";
  gethostname(name, HOST_NAME_MAX);
  return name;
}

}  // namespace dga

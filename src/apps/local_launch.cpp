#include "apps/local_launch.h"

#include <arpa/inet.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>

#include "util/log.h"
#include "util/process.h"
#include "util/signals.h"
#include "util/timer.h"

namespace dga {
namespace {

constexpr auto kPollInterval = std::chrono::milliseconds(50);
constexpr double kSecondsAfterFailure = 60;
constexpr int kSignalCode = 128;  // what a shell adds to the signal that ended a process

/// A port of this host that nothing listens at now.
int free_port() {
  const int id = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  socklen_t size = sizeof(address);
  const bool found = id >= 0 && bind(id, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                     getsockname(id, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  if (id >= 0) close(id);
  DGA_CHECK(found, "no free port on this host");
  return ntohs(address.sin_port);
}

/// A launcher around this one, as torchrun around a sweep, has variables of its own, which are not for these processes.
std::vector<std::string> environment_of(int64_t rank, int64_t count, int port) {
  return {str("RANK=", rank),
          str("WORLD_SIZE=", count),
          str("LOCAL_RANK=", rank),
          str("LOCAL_WORLD_SIZE=", count),
          "MASTER_ADDR=127.0.0.1",
          str("MASTER_PORT=", port),
          "TORCHELASTIC_USE_AGENT_STORE=False"};
}

class LocalLaunch {
 public:
  LocalLaunch(const std::vector<std::string>& words, int64_t count) : codes_(static_cast<size_t>(count)) {
    const int port = free_port();
    for (int64_t rank = 0; rank < count; ++rank) processes_.emplace_back(words, environment_of(rank, count, port));
  }

  ExitCode wait() {
    bool passed_on = false;
    while (collect()) {
      if (const int signal = stop_signal(); signal != 0 && !std::exchange(passed_on, true)) send(signal);
      if (failure_ && since_failure_.seconds() > kSecondsAfterFailure) {
        send(SIGKILL);
        killed_ = true;
      }
      std::this_thread::sleep_for(kPollInterval);
    }
    return failure_.value_or(ExitCode::ok);
  }

 private:
  /// Whether processes are left.
  bool collect() {
    bool left = false;
    for (size_t rank = 0; rank < processes_.size(); ++rank) {
      if (codes_[rank]) continue;
      codes_[rank] = processes_[rank].exit_code();
      if (!codes_[rank]) {
        left = true;
      } else if (*codes_[rank] != 0) {
        note_failure(rank, *codes_[rank]);
      }
    }
    return left;
  }

  void note_failure(size_t rank, int code) {
    if (code < 0) log::error("rank ", rank, " was ended by signal ", -code, " (", strsignal(-code), ")");
    const auto exit_code = static_cast<ExitCode>(code < 0 ? kSignalCode - code : code);
    if (!failure_) since_failure_.restart();
    // A rank that ended because of another may be the first to be gone; one that was killed for it says nothing new.
    if (killed_) return;
    if (!failure_ || *failure_ == ExitCode::rank) failure_ = exit_code;
  }

  void send(int signal) const {
    for (size_t rank = 0; rank < processes_.size(); ++rank) {
      if (!codes_[rank]) processes_[rank].send(signal);
    }
  }

  std::vector<ChildProcess> processes_;
  std::vector<std::optional<int>> codes_;
  std::optional<ExitCode> failure_;
  bool killed_ = false;
  Timer since_failure_;
};

}  // namespace

ExitCode launch_locally(const std::vector<std::string>& words, int64_t count) {
  install_stop_signals();
  return LocalLaunch(words, count).wait();
}

}  // namespace dga

#include "util/signals.h"

#include <unistd.h>

#include <atomic>
#include <csignal>

namespace dga {
namespace {

std::atomic<int> received{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

void on_signal(int number) {
  if (received.exchange(number) != 0) _exit(128 + number);
}

}  // namespace

void install_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

int stop_signal() { return received.load(); }

ExitCode stop_code(int signal) { return signal == SIGINT ? ExitCode::interrupted : ExitCode::terminated; }
const char* stop_name(int signal) { return signal == SIGINT ? "SIGINT" : "SIGTERM"; }

}  // namespace dga

#include "dist/shared_store.h"

#include <c10/util/Exception.h>
#include <c10/util/Logging.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "util/error.h"
#include "util/first_line.h"

namespace dga {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kRetryDelay = std::chrono::milliseconds(200);
constexpr auto kConnectTimeout = std::chrono::seconds(5);
/// A name that nobody knows is mostly a mistake, but a cluster's name service may lag behind its nodes.
constexpr auto kNameLimit = std::chrono::seconds(60);
constexpr int kLogFatal = 3;

/// Calls LibTorch's store; what it throws becomes an Error of one line.
template <class Call>
auto guarded(const Call& call) {
  try {
    return call();
  } catch (const c10::Error& e) {
    fail(ExitCode::failure, "the ranks' store: ", first_line(e.what_without_backtrace()));
  }
}

/// Why a connection to one address cannot be made; empty where it can.
std::string try_address(const addrinfo& address) {
  const int socket_id = socket(address.ai_family, address.ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (socket_id < 0) return std::strerror(errno);
  int error = connect(socket_id, address.ai_addr, address.ai_addrlen) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    pollfd wait{socket_id, POLLOUT, 0};
    const auto timeout = std::chrono::milliseconds(kConnectTimeout).count();
    socklen_t size = sizeof(error);
    if (poll(&wait, 1, static_cast<int>(timeout)) == 1) {
      getsockopt(socket_id, SOL_SOCKET, SO_ERROR, &error, &size);
    } else {
      error = ETIMEDOUT;
    }
  }
  close(socket_id);
  return error == 0 ? "" : std::strerror(error);
}

struct Attempt {
  bool name_known = true;
  std::string problem;  // empty: somebody listens there
};

Attempt try_to_connect(const LaunchEnvironment& place) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  const std::string port = std::to_string(place.master_port);
  if (const int error = getaddrinfo(place.master_address.c_str(), port.c_str(), &hints, &found); error != 0) {
    return {false, gai_strerror(error)};
  }
  Attempt attempt;
  for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
    attempt.problem = try_address(*address);
    if (attempt.problem.empty()) break;
  }
  freeaddrinfo(found);
  return attempt;
}

/// Waits until somebody listens at the run's address. LibTorch's store tries again as well, but says little about why.
void wait_for_listener(const LaunchEnvironment& place, std::chrono::milliseconds limit) {
  const auto begin = Clock::now();
  while (true) {
    const Attempt attempt = try_to_connect(place);
    if (attempt.problem.empty()) return;
    const auto waited = Clock::now() - begin;
    if (waited >= limit || (!attempt.name_known && waited >= kNameLimit)) {
      fail(ExitCode::config, "rank ", place.rank, " finds nobody at ", place.master_address, ":", place.master_port,
           " (", attempt.problem, ") after ", std::chrono::duration_cast<std::chrono::seconds>(waited).count(),
           " s; MASTER_ADDR and MASTER_PORT must name the host and a free port of rank 0, which must be running");
    }
    std::this_thread::sleep_for(kRetryDelay);
  }
}

c10d::TCPStoreOptions store_options(const LaunchEnvironment& place, std::chrono::milliseconds limit) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(place.master_port);
  options.waitWorkers = false;
  options.timeout = limit;
  return options;
}

c10::intrusive_ptr<c10d::Store> host_store(const LaunchEnvironment& place, std::chrono::milliseconds limit) {
  c10d::TCPStoreOptions options = store_options(place, limit);
  options.isServer = true;
  try {
    // The store listens on all addresses; this is how rank 0 itself reaches it.
    return c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options);
  } catch (const c10::Error& e) {
    const std::string reason = first_line(e.what_without_backtrace());
    const bool taken = reason.find("EADDRINUSE") != std::string::npos;
    fail(ExitCode::config, "MASTER_PORT: rank 0 cannot open port ", place.master_port, ": ",
         taken ? "it is in use on this host, perhaps by another run; choose another" : reason);
  }
}

c10::intrusive_ptr<c10d::Store> join_store(const LaunchEnvironment& place, std::chrono::milliseconds limit) {
  wait_for_listener(place, limit);
  try {
    return c10::make_intrusive<c10d::TCPStore>(place.master_address, store_options(place, limit));
  } catch (const c10::Error& e) {
    fail(ExitCode::config, "MASTER_PORT: what answers at ", place.master_address, ":", place.master_port,
         " is not rank 0 of a run: ", first_line(e.what_without_backtrace()));
  }
}

}  // namespace

SharedStore::SharedStore(c10::intrusive_ptr<c10d::Store> store) : store_(std::move(store)) {}
SharedStore::~SharedStore() = default;

std::unique_ptr<SharedStore> SharedStore::open(const LaunchEnvironment& place, std::chrono::milliseconds limit) {
  // LibTorch would print warnings and stack traces of its own where this project reports one line.
  if (!environment_variable("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = kLogFatal;
  const bool hosts = place.rank == 0 && !place.store_of_launcher;
  c10::intrusive_ptr<c10d::Store> store = hosts ? host_store(place, limit) : join_store(place, limit);
  return std::unique_ptr<SharedStore>(
      new SharedStore(c10::make_intrusive<c10d::PrefixStore>(place.key_prefix, std::move(store))));
}

void SharedStore::set(const std::string& key, const std::string& value) {
  guarded([&] { store_->set(key, value); });
}

std::optional<std::string> SharedStore::find(const std::string& key) {
  return guarded([&]() -> std::optional<std::string> {
    if (!store_->check({key})) return std::nullopt;
    return store_->get_to_str(key);
  });
}

std::string SharedStore::set_first(const std::string& key, const std::string& value) {
  return guarded([&] { return store_->compareSet(key, std::string(), value); });
}

bool SharedStore::has_all(const std::vector<std::string>& keys) {
  return guarded([&] { return store_->check(keys); });
}

std::vector<std::string> SharedStore::get_all(const std::vector<std::string>& keys) {
  return guarded([&] {
    std::vector<std::string> values;
    for (const auto& bytes : store_->multiGet(keys)) values.emplace_back(bytes.begin(), bytes.end());
    return values;
  });
}

std::unique_ptr<SharedStore> SharedStore::connect_again() const {
  return guarded([&] { return std::unique_ptr<SharedStore>(new SharedStore(store_->clone())); });
}

}  // namespace dga

#include "dist/gloo_device.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/error.h"

namespace dga {
namespace {

std::string numeric(const sockaddr* address, socklen_t size) {
  char host[NI_MAXHOST] = {};
  return getnameinfo(address, size, host, sizeof(host), nullptr, 0, NI_NUMERICHOST) == 0 ? host : "";
}

bool is_loopback(const std::string& address) { return address.starts_with("127.") || address == "::1"; }

/// This host's address on the way to `host`: what the system binds a datagram socket to. Nothing is sent.
std::string address_towards(const std::string& host, int64_t port) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_DGRAM;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return "";
  std::string address;
  for (const addrinfo* at = found; at != nullptr && address.empty(); at = at->ai_next) {
    const int id = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, 0);
    sockaddr_storage own{};
    socklen_t size = sizeof(own);
    if (id >= 0 && connect(id, at->ai_addr, at->ai_addrlen) == 0 &&
        getsockname(id, reinterpret_cast<sockaddr*>(&own), &size) == 0) {
      address = numeric(reinterpret_cast<sockaddr*>(&own), size);
    }
    if (id >= 0) close(id);
  }
  freeaddrinfo(found);
  return address;
}

/// The first IPv4 address of an interface that is up and not loopback.
std::string first_outer_address() {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return "";
  std::string address;
  for (const ifaddrs* at = all; at != nullptr && address.empty(); at = at->ifa_next) {
    const bool usable = at->ifa_addr != nullptr && at->ifa_addr->sa_family == AF_INET &&
                        (at->ifa_flags & IFF_UP) != 0 && (at->ifa_flags & IFF_LOOPBACK) == 0;
    if (usable) address = numeric(at->ifa_addr, sizeof(sockaddr_in));
  }
  freeifaddrs(all);
  return address;
}

}  // namespace

GlooInterface choose_gloo_interface(const LaunchEnvironment& place, const VariableLookup& variable) {
  if (const auto name = variable("GLOO_SOCKET_IFNAME")) return {name->substr(0, name->find(',')), ""};
  if (place.is_one_host()) return {"", "127.0.0.1"};
  std::string address = address_towards(place.master_address, place.master_port);
  // Some systems give a host's own name a loopback address.
  if (is_loopback(address) && place.rank < place.local_world_size) address = first_outer_address();
  if (address.empty() || is_loopback(address)) {
    fail(ExitCode::config, "GLOO_SOCKET_IFNAME: not set, and ", place.master_address,
         " (MASTER_ADDR) does not tell by which network interface the hosts reach each other; set it, as to eth0");
  }
  return {"", address};
}

}  // namespace dga

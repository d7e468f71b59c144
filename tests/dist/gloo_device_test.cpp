#include "dist/gloo_device.h"

#include <gtest/gtest.h>

#include "util/error.h"

namespace dga {
namespace {

LaunchEnvironment place_at(const std::string& address, int64_t rank) {
  LaunchEnvironment place;
  place.rank = rank;
  place.world_size = 4;
  place.local_world_size = 2;
  place.master_address = address;
  place.master_port = 29500;
  return place;
}

std::optional<std::string> unset(const std::string&) { return std::nullopt; }

TEST(GlooInterface, TheVariableCounts) {
  const auto variable = [](const std::string& name) {
    return name == "GLOO_SOCKET_IFNAME" ? std::optional<std::string>("eth7,eth8") : std::nullopt;
  };
  EXPECT_EQ(choose_gloo_interface(place_at("127.0.0.1", 3), variable).name, "eth7");
}

TEST(GlooInterface, OneHostNeedsNoNetwork) {
  LaunchEnvironment place = place_at("some.host", 1);
  place.local_world_size = 4;
  EXPECT_EQ(choose_gloo_interface(place, unset).address, "127.0.0.1");
}

/// Loopback, or a name that nobody knows, leads to no other host.
TEST(GlooInterface, SeveralHostsNeedAnAddressThatAllReach) {
  for (const char* address : {"127.0.0.1", "no-such-host.invalid"}) {
    try {
      choose_gloo_interface(place_at(address, 3), unset);
      ADD_FAILURE() << "accepted " << address;
    } catch (const Error& e) {
      EXPECT_EQ(std::string(e.what()).find("GLOO_SOCKET_IFNAME: not set, and " + std::string(address)), 0U) << e.what();
      EXPECT_EQ(e.code(), ExitCode::config);
    }
  }
}

}  // namespace
}  // namespace dga

#pragma once

#include <string>

#include "dist/launch_environment.h"

namespace dga {

/// How gloo chooses the network interface that the ranks listen at: by its name or by an address of it.
struct GlooInterface {
  std::string name;     // GLOO_SOCKET_IFNAME, else empty
  std::string address;  // empty where there is a name
};

/// GLOO_SOCKET_IFNAME (the first of several), else loopback where all ranks are on one host, else the interface by
/// which rank 0 is reached. Throws a config error where that is loopback, though ranks are on several hosts.
GlooInterface choose_gloo_interface(const LaunchEnvironment& place,
                                    const VariableLookup& variable = environment_variable);

}  // namespace dga

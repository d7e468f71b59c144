#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "util/error.h"

namespace dga {

/// Starts `words` in `count` processes with the variables of a launch on this host, and waits for them. Passes the
/// first SIGINT or SIGTERM on to them. When one has failed, the others have a minute to end. Returns ok if all ended
/// well, else the code of the first that failed by itself.
ExitCode launch_locally(const std::vector<std::string>& words, int64_t count);

}  // namespace dga

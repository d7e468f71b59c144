#pragma once

namespace dga {

/// After this, the first SIGINT or SIGTERM is only noted; a second one ends the process at once with 130 or 143.
void install_stop_signals();

/// SIGINT or SIGTERM once one has arrived, else 0.
int stop_signal();

}  // namespace dga

#pragma once

#include "util/error.h"

namespace dga {

/// After this, the first SIGINT or SIGTERM is only noted; a second one ends the process at once with 130 or 143.
void install_stop_signals();

/// SIGINT or SIGTERM once one has arrived, else 0.
int stop_signal();

/// Of SIGINT or SIGTERM: the code that a program which it has stopped ends with, and its name.
ExitCode stop_code(int signal);
const char* stop_name(int signal);

}  // namespace dga

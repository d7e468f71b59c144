#pragma once

#include <c10/core/Device.h>

#include "dist/communicator.h"

namespace dga::testing {

/// Calls every collective with several types and sizes on tensors of `device` and throws where a result is not the one
/// computed here from what each rank put in.
void check_operations(Communicator& communicator, c10::Device device);

}  // namespace dga::testing

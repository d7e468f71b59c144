#pragma once

#include <c10/core/Device.h>

#include <memory>

#include "dist/communicator.h"

namespace dga {

class RankGroup;

/// Collectives of tensors on `device`, a GPU that no other rank uses, through NCCL: on a stream of their own, after the
/// work of the current stream so far. A sum's order is NCCL's; ncclMax may lose a NaN. Types: fp32, fp64, bf16, int32,
/// int64. `ranks` must outlive it. Throws a config error in a build without CUDA.
std::unique_ptr<Communicator> make_nccl_communicator(RankGroup& ranks, c10::Device device);

}  // namespace dga

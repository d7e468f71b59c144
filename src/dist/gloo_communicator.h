#pragma once

#include <memory>

#include "dist/communicator.h"

namespace dga {

class RankGroup;

/// Collectives of tensors in host memory over TCP, through LibTorch's gloo. Sums are taken in the order of the ranks
/// (of bf16 in fp32, rounded once), so all_reduce and reduce_scatter give the same bits, however the numbers are cut
/// into calls. Types: fp32, fp64, bf16, int32, int64. The interface is GLOO_SOCKET_IFNAME's, or loopback where all
/// ranks are on one host, or the one by which rank 0 is reached. `ranks` must outlive it.
std::unique_ptr<Communicator> make_gloo_communicator(RankGroup& ranks);

}  // namespace dga

#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <memory>

#include "dist/communicator.h"

namespace dga {

class RankGroup;

/// The collectives of a Communicator by one library, for tensors that were checked to fit each other.
class Collectives {
 public:
  virtual ~Collectives() = default;
  virtual at::Tensor allocate(int64_t count, const at::TensorOptions& options) = 0;
  virtual int64_t allocated_bytes() const { return 0; }
  virtual std::unique_ptr<PendingCollective> all_reduce(const at::Tensor& numbers, Reduction reduction) = 0;
  virtual std::unique_ptr<PendingCollective> reduce_scatter(const at::Tensor& output, const at::Tensor& input) = 0;
  virtual std::unique_ptr<PendingCollective> all_gather(const at::Tensor& output, const at::Tensor& input) = 0;
};

/// Among CPU processes over TCP, through LibTorch's gloo. Sums are taken in the order of the ranks (of bf16 in fp32,
/// rounded once), so all_reduce and reduce_scatter give the same bits, however the numbers are cut into calls. The
/// network interface is GLOO_SOCKET_IFNAME's, or loopback where all ranks are on one host, or the one by which rank 0
/// is reached. `ranks` must outlive it.
std::unique_ptr<Collectives> make_gloo_collectives(RankGroup& ranks);

/// Among GPUs, of which each rank has one for itself, through NCCL: on a stream of their own, after the work of the
/// current stream so far. A sum's order is NCCL's, but of bf16 into fp32 within a host, where it depends on the number
/// of ranks alone. `ranks` must outlive it. Throws a config error in a build without
/// CUDA.
std::unique_ptr<Collectives> make_nccl_collectives(RankGroup& ranks, c10::Device device);

}  // namespace dga

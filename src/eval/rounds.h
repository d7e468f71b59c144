#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "dist/communicator.h"

namespace dga {

/// The ranks of an evaluation and the device that their communicator's tensors lie on.
struct EvalRanks {
  Communicator& ranks;
  at::Device device = at::kCPU;
};

/// Deals passes out to the ranks, one to each in a round, and brings the results together on all of them, so that what
/// is made of them does not depend on the number of ranks.
class PassRounds {
 public:
  /// `topic` begins that of an exchange, which is made where a pass fails.
  PassRounds(const EvalRanks& ranks, std::string topic);

  /// Passes of a round; the last round of an evaluation may have fewer.
  size_t size() const { return static_cast<size_t>(ranks_.ranks.world_size()); }

  /// Makes this rank's pass, `pass(rank)`, if rank < counts.size(), and returns the results of all, in order: pass i
  /// gives counts[i] numbers [n] on the CPU, here as double. Where one throws, all throw the error of the first.
  std::vector<at::Tensor> run(const std::vector<int64_t>& counts, const std::function<at::Tensor(size_t)>& pass);

  /// The stop signal that had reached one of the ranks in the last round, 0 for none.
  int stop_signal() const { return stop_signal_; }

 private:
  at::Tensor gather(const at::Tensor& own, int64_t longest, bool failed);

  EvalRanks ranks_;
  std::string topic_;
  int stop_signal_ = 0;
};

}  // namespace dga

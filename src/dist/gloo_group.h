#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

#include "dist/communicator.h"

namespace c10d {
class ProcessGroupGloo;
}

namespace dga {

class RankGroup;

/// Collectives over gloo, each to its end before it returns. gloo only moves bytes; numbers are combined here. Throws
/// what gloo says.
class GlooGroup {
 public:
  explicit GlooGroup(RankGroup& ranks);
  ~GlooGroup();

  void all_reduce(const at::Tensor& numbers, Reduction reduction);
  void reduce_scatter(const at::Tensor& output, const at::Tensor& input);
  void all_gather(const at::Tensor& output, const at::Tensor& input);

 private:
  /// Every rank's part of the input to the rank that combines it into its output.
  void combine_parts(const at::Tensor& output, const at::Tensor& input, Reduction reduction);

  const int64_t world_size_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
};

}  // namespace dga

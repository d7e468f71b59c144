#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "optim/config.h"

namespace dga {

/// A parameter that training changes, under its Hugging Face name.
struct TrainedParameter {
  std::string name;
  at::Tensor value;
};

/// Whether weight decay applies: not to vectors (norms) and token embeddings unless the config says so. A tied output
/// weight is the embedding.
bool is_decayed(const OptimizerConfig& config, const TrainedParameter& parameter);

/// Numbers [begin, end) of the flat space.
struct FlatRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

/// A parameter's place in the flat space.
struct FlatSlot {
  std::string name;
  std::vector<int64_t> shape;
  int64_t begin = 0;
  int64_t count = 0;  // numbers, without the padding that follows them

  /// This slot of a flat tensor, in the parameter's shape.
  at::Tensor view_in(const at::Tensor& flat) const;
};

/// How the flat space is cut up for a number of ranks.
struct FlatCut {
  int64_t ranks = 1;
  int64_t bucket_numbers = std::numeric_limits<int64_t>::max();  // about as many in a bucket
};

/// Whole parameters next to each other, as many as go into a bucket and at least one. Backward makes gradients from the
/// last parameter to the first, so those of a group are complete when that of `earliest` is.
struct FlatGroup {
  FlatRange numbers;               // begins and ends at multiples of ranks * 256
  std::vector<FlatRange> buckets;  // what is reduced and gathered as one: the group, or cuts of a large parameter
  std::vector<size_t> slots;
  size_t earliest = 0;  // of its parameters, in their order
  int64_t first = 0;    // place that numbers.begin has in the space of one rank, which has no padding for ranks
};

/// All trained parameters one after the other in one space of numbers, which weights, gradients and optimizer state
/// share. Each slot begins at a multiple of 256 numbers, so that a view is aligned in every type and no block of 8-bit
/// moments lies in two parameters; the padding is zero and stays zero. Decayed parameters come first; no group holds
/// some of both.
struct FlatLayout {
  std::vector<FlatSlot> slots;    // in the order of the parameters, which is not that of their places
  std::vector<FlatGroup> groups;  // by place
  int64_t size = 0;               // a multiple of ranks * 256
  int64_t decayed_end = 0;        // weight decay applies to [0, decayed_end)

  FlatLayout(const OptimizerConfig& config, const std::vector<TrainedParameter>& parameters, const FlatCut& cut = {});

 private:
  void add_group(std::vector<size_t> members, const FlatCut& cut, int64_t& place);
};

}  // namespace dga

#pragma once

#include <cstdint>
#include <map>

#include "attention/sequence_layout.h"
#include "model/llama.h"

namespace dga {

/// Model FLOPs of training steps, attention counted by the pairs that are visible. As if all weights trained.
class FlopCounter {
 public:
  /// The model must outlive the counter.
  explicit FlopCounter(const Llama& model) : model_(model) {}

  /// FLOPs of one training pass, forward and backward, over rows of `length` tokens laid out as given.
  double of(const SequenceLayout& layout, int64_t length);

 private:
  double per_token(int64_t sequence_length);

  const Llama& model_;
  std::map<int64_t, double> per_token_;  // by sequence length
};

}  // namespace dga

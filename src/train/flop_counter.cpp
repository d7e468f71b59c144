#include "train/flop_counter.h"

#include "model/llama_config.h"

namespace dga {

double FlopCounter::per_token(int64_t sequence_length) {
  const auto known = per_token_.find(sequence_length);
  if (known != per_token_.end()) return known->second;
  const double flops = flops_per_token(model_.config(), model_.visible_pairs_per_token(sequence_length));
  return per_token_[sequence_length] = flops;
}

double FlopCounter::of(const SequenceLayout& layout, int64_t length) {
  double flops = 0;
  for (const SequenceSpan& span : sequences(layout, length)) {
    flops += static_cast<double>(span.length) * per_token(span.length);
  }
  return flops;
}

}  // namespace dga

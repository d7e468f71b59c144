#pragma once

#include <cstdint>
#include <vector>

#include "eval/config.h"

namespace dga {

/// One forward pass over tokens [start, start + length) of a sequence; those from `first_scored` on count.
struct Window {
  int64_t start = 0;
  int64_t length = 0;
  int64_t first_scored = 0;  // position in the sequence, always > start: the first token has nothing before it

  int64_t scored() const { return start + length - first_scored; }
  bool operator==(const Window&) const = default;
};

/// Windows over a sequence of `tokens` tokens, in order.
///   sliding   windows end at L, L + stride, ... and at the last token (the last window starts a stride after the one
///             before it and may be shorter); each scores the tokens that no earlier window scored. With
///             stride = L the first token of every window stays unscored. (PI, YaRN, Hugging Face)
///   longlora  windows start at 0, stride, 2 * stride, ...; each scores all of its tokens but the first; a window that
///             would be shorter than L is dropped. (LongLoRA, but its script also drops a window that ends exactly at
///             the end of the text)
/// Throws a config error unless context_length >= 2 and 1 <= stride <= context_length.
std::vector<Window> plan_windows(EvalProtocol protocol, int64_t tokens, int64_t context_length, int64_t stride);

}  // namespace dga

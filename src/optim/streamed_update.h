#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "ops/adamw.h"

namespace dga {

/// Numbers of a piece of streamed_adamw_update, and how many pieces are on the device at a time.
constexpr int64_t kStreamedPiece = int64_t{1} << 25;
constexpr int64_t kStreamedPieces = 3;

/// adamw_update() of ranges whose weights and gradients are on a GPU and whose other state is in pinned host memory.
/// Pieces of at most `piece_numbers` (a multiple of kMomentBlock) come to the device, are updated and go back, on
/// streams of their own and while other pieces are at work. `updated(i)` is called when range i's weights have their
/// new values for later work of the current stream. The host waits for nothing; work that the current stream does later
/// finds everything back on the host. The result has the bits of adamw_update().
void streamed_adamw_update(const std::vector<AdamWRange>& ranges, const AdamWStep& step,
                           const std::function<void(size_t)>& updated, int64_t piece_numbers = kStreamedPiece);

}  // namespace dga

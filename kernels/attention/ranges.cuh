#pragma once

#include <cstdint>

#include "kernels/attention/attention.h"

// Which key tiles a tile of queries visits: the tiles of the compact range, then those of the second range. Bounds are
// monotone in the query, so the first and the last row of the query tile give the union of what its rows see, and
// what all of them see; a key tile inside the latter needs no mask.
namespace dga::kernels {

struct RowBounds {
  int first_begin, first_end, second_begin, second_end;
};

/// Bounds of query `row` for the KV head whose arrays start at `offset`.
__device__ __forceinline__ RowBounds load_bounds(const Bounds& bounds, int64_t offset, int row) {
  return {bounds.first_begin == nullptr ? 0 : bounds.first_begin[offset + row], bounds.first_end[offset + row],
          bounds.second_begin[offset + row], bounds.second_end[offset + row]};
}

struct KeyTile {
  int start;     // first key row of the tile in its list
  bool compact;  // which list
  bool full;     // every row of the query tile sees all of it
};

template <int kBlockN>
struct KeyTiles {
  RowBounds first_row, last_row;
  int compact_tiles, second_tiles;

  __device__ __forceinline__ KeyTiles(const RowBounds& first, const RowBounds& last)
      : first_row(first), last_row(last) {
    first_row.first_begin &= ~3;  // the bias is copied in units of 16 bytes
    compact_tiles = (max(last.first_end - first_row.first_begin, 0) + kBlockN - 1) / kBlockN;
    second_tiles = (max(last.second_end - first.second_begin, 0) + kBlockN - 1) / kBlockN;
  }
  __device__ __forceinline__ int count() const { return compact_tiles + second_tiles; }
  __device__ __forceinline__ KeyTile operator[](int index) const {
    if (index < compact_tiles) {
      const int start = first_row.first_begin + index * kBlockN;
      return {start, true, start >= last_row.first_begin && start + kBlockN <= first_row.first_end};
    }
    const int start = first_row.second_begin + (index - compact_tiles) * kBlockN;
    return {start, false, start >= last_row.second_begin && start + kBlockN <= first_row.second_end};
  }
};

}  // namespace dga::kernels

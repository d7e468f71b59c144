#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace dga {

/// Counter-based random numbers: the value depends on the key and the counter alone, so nothing has to be saved
/// between calls and no order of calls can change a result. Mixing is SplitMix64 (Steele, Lea, Flood 2014).
class CounterRng {
 public:
  /// `parts` identify the stream, e.g. {seed, epoch, layer}.
  explicit CounterRng(std::initializer_list<uint64_t> parts);

  uint64_t bits(uint64_t counter) const;
  /// Uniform in [0, 1).
  double uniform(uint64_t counter) const;

  /// A permutation of 0..n-1 (Fisher-Yates).
  std::vector<int64_t> permutation(int64_t n) const;
  /// `count` of the positions 0..n-1, uniform without replacement, in increasing order.
  std::vector<int64_t> sample(int64_t n, int64_t count) const;

 private:
  uint64_t key_;
};

/// A stable 64-bit number for a name, to be used as a part of a key.
uint64_t key_of(std::string_view name);

}  // namespace dga

#include "util/random.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "util/error.h"

namespace dga {
namespace {

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ULL;

uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

// The high half of a 64 x 64 bit product maps uniform bits to 0..n-1; its bias is below n / 2^64.
uint64_t below(uint64_t bits, uint64_t n) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(bits) * n) >> 64);
}

}  // namespace

CounterRng::CounterRng(std::initializer_list<uint64_t> parts) : key_(kGolden) {
  for (const uint64_t part : parts) key_ = mix(key_ + kGolden + mix(part + kGolden));
}

uint64_t CounterRng::bits(uint64_t counter) const { return mix(key_ + (counter + 1) * kGolden); }

double CounterRng::uniform(uint64_t counter) const { return static_cast<double>(bits(counter) >> 11) * 0x1.0p-53; }

std::vector<int64_t> CounterRng::permutation(int64_t n) const {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  for (uint64_t i = static_cast<uint64_t>(n); i > 1; --i) std::swap(order[i - 1], order[below(bits(i), i)]);
  return order;
}

std::vector<int64_t> CounterRng::sample(int64_t n, int64_t count) const {
  DGA_CHECK(count >= 0 && count <= n, "cannot sample ", count, " of ", n, " positions");
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  for (uint64_t i = 0; i < static_cast<uint64_t>(count); ++i) {
    std::swap(order[i], order[i + below(bits(i), static_cast<uint64_t>(n) - i)]);
  }
  order.resize(static_cast<size_t>(count));
  std::sort(order.begin(), order.end());
  return order;
}

uint64_t key_of(std::string_view name) {
  uint64_t key = kGolden;
  for (const char c : name) key = mix(key + static_cast<unsigned char>(c) + kGolden);
  return key;
}

}  // namespace dga

#include "util/hash.h"

#include <xxhash.h>

#include <array>
#include <cstdio>

namespace dga {

std::string hash_hex(std::span<const std::byte> bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  std::array<char, 33> text{};
  std::snprintf(text.data(), text.size(), "%016llx%016llx", static_cast<unsigned long long>(hash.high64),
                static_cast<unsigned long long>(hash.low64));
  return text.data();
}

std::string hash_hex(std::string_view bytes) { return hash_hex(std::as_bytes(std::span(bytes.data(), bytes.size()))); }

uint64_t hash_bits(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

}  // namespace dga

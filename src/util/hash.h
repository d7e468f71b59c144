#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace dga {

/// XXH3-128 of the bytes as 32 hexadecimal digits: checksums of checkpoints and names of token shards.
std::string hash_hex(std::span<const std::byte> bytes);
std::string hash_hex(std::string_view bytes);

/// XXH3-64 of the bytes.
uint64_t hash_bits(std::span<const std::byte> bytes);

}  // namespace dga

#include "util/hash.h"

#include <gtest/gtest.h>

#include <vector>

namespace dga {
namespace {

// XXH3-128 as other programs compute it; they name token shards and guard checkpoints, so they must never change.
TEST(HashTest, KnownValues) {
  EXPECT_EQ(hash_hex(std::string_view()), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(hash_hex("abc"), "06b05ab6733a618578af5f94892f3950");
  EXPECT_EQ(hash_hex(std::string(100000, 'x')), "0fe996a84987456bd8b99a30e426ac41");
}

TEST(HashTest, BytesAndTextAgreeAndEveryByteCounts) {
  std::vector<std::byte> bytes(1000, std::byte{7});
  const std::string text(1000, '\7');
  EXPECT_EQ(hash_hex(bytes), hash_hex(text));
  for (const size_t i : {0, 500, 999}) {
    bytes[i] = std::byte{8};
    EXPECT_NE(hash_hex(bytes), hash_hex(text)) << i;
    bytes[i] = std::byte{7};
  }
}

}  // namespace
}  // namespace dga

#include "bench/link_bench.h"

#include <gtest/gtest.h>

#include <mutex>
#include <nlohmann/json.hpp>

#include "support/thread_communicator.h"

namespace dga {
namespace {

TEST(LinkBench, TimesEveryOperationOnEachRank) {
  std::mutex mutex;
  std::vector<std::vector<LinkBenchRow>> by_rank;
  testing::run_ranks(3, [&](Communicator& ranks) {
    const std::vector<LinkBenchRow> rows = bench_links({.bucket_mib = 1, .repeats = 2}, at::kCPU, ranks);
    const std::lock_guard lock(mutex);
    by_rank.push_back(rows);
  });
  ASSERT_EQ(by_rank.size(), 3U);
  const int64_t part = (1 << 20) / 4 / 3;
  for (const std::vector<LinkBenchRow>& rows : by_rank) {
    ASSERT_EQ(rows.size(), 5U);
    EXPECT_EQ(rows[0].sent_bytes, 2 * part * 2);  // to two others, in bf16
    EXPECT_EQ(rows[1].sent_bytes, 2 * part * 4);
    EXPECT_EQ(rows[3].sent_bytes, 2 * 2 * part * 4);  // there and back
    for (const LinkBenchRow& row : rows) EXPECT_GT(row.seconds, 0);
  }
  const nlohmann::json json = nlohmann::json::parse(link_bench_json({{"all_gather", 6, 0.5}}, "card", 3, "abc"));
  EXPECT_EQ(json[0]["bytes_per_s"], 12);
  EXPECT_EQ(json[0]["ranks"], 3);
  EXPECT_NE(link_bench_text({{"all_gather", 3 << 20, 0.001}}, "card", 3).find("| all_gather | 3.0 | 1.000 | 3.1 |"),
            std::string::npos);
}

}  // namespace
}  // namespace dga

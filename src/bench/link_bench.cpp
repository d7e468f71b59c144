#include "bench/link_bench.h"

#include <ATen/ATen.h>

#include <cstdio>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "train/device_mark.h"
#include "util/error.h"

namespace dga {
namespace {

constexpr int64_t kWarmUps = 3;

using Collective = std::function<std::unique_ptr<PendingCollective>()>;

/// Mean seconds of a collective among `repeats` that follow each other, as the buckets of a step do.
double seconds_of(const Collective& collective, int64_t repeats, c10::Device device) {
  const auto run = [&](int64_t count) {
    std::vector<std::unique_ptr<PendingCollective>> pending;
    for (int64_t i = 0; i < count; ++i) pending.push_back(collective());
    for (const auto& one : pending) one->wait();
  };
  run(kWarmUps);
  const DeviceMark begin(device);
  run(repeats);
  return DeviceMark(device).seconds_since(begin) / static_cast<double>(repeats);
}

}  // namespace

std::vector<LinkBenchRow> bench_links(const LinkBenchOptions& options, c10::Device device, Communicator& ranks) {
  const int64_t world = ranks.world_size();
  DGA_CHECK(world > 1, "one rank alone exchanges nothing");
  const int64_t part = (options.bucket_mib << 20) / 4 / world, count = part * world;
  const auto numbers = [&](int64_t size, at::ScalarType type) {
    return ranks.allocate(size, at::TensorOptions(type).device(device));
  };
  const at::Tensor wide = numbers(count, at::kFloat), narrow = numbers(count, at::kBFloat16);
  const at::Tensor wide_part = numbers(part, at::kFloat), narrow_part = numbers(part, at::kBFloat16);
  const auto of_parts = [&](int64_t number_bytes) { return (world - 1) * part * number_bytes; };
  std::vector<LinkBenchRow> rows;
  const auto measure = [&](const char* operation, int64_t sent_bytes, const Collective& collective) {
    rows.push_back({operation, sent_bytes, seconds_of(collective, options.repeats, device)});
  };
  measure("reduce_scatter, bf16 into fp32", of_parts(2), [&] { return ranks.reduce_scatter(wide_part, narrow); });
  measure("reduce_scatter, fp32", of_parts(4), [&] { return ranks.reduce_scatter(wide_part, wide); });
  measure("reduce_scatter, bf16", of_parts(2), [&] { return ranks.reduce_scatter(narrow_part, narrow); });
  measure("all_reduce, fp32", 2 * of_parts(4), [&] { return ranks.all_reduce(wide, Reduction::sum); });
  measure("all_gather, bf16", of_parts(2), [&] { return ranks.all_gather(narrow, narrow_part); });
  return rows;
}

std::string link_bench_text(const std::vector<LinkBenchRow>& rows, const std::string& device_name, int64_t ranks) {
  std::string text = str(ranks, " x ", device_name, "\n\n| operation | MiB sent by each | ms | GB/s each way |\n",
                         "| --- | --- | --- | --- |\n");
  for (const LinkBenchRow& row : rows) {
    char numbers[96];
    std::snprintf(numbers, sizeof(numbers), " | %.1f | %.3f | %.1f |\n", static_cast<double>(row.sent_bytes) / 1048576,
                  1e3 * row.seconds, row.rate() / 1e9);
    text += "| " + row.operation + numbers;
  }
  return text;
}

std::string link_bench_json(const std::vector<LinkBenchRow>& rows, const std::string& device_name, int64_t ranks,
                            const std::string& commit) {
  nlohmann::json list = nlohmann::json::array();
  for (const LinkBenchRow& row : rows) {
    list.push_back({{"operation", row.operation},
                    {"ranks", ranks},
                    {"sent_bytes", row.sent_bytes},
                    {"seconds", row.seconds},
                    {"bytes_per_s", row.rate()},
                    {"card", device_name},
                    {"commit", commit}});
  }
  return list.dump(2) + "\n";
}

}  // namespace dga

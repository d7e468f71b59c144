#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <string>
#include <vector>

#include "dist/communicator.h"

namespace dga {

/// How fast the ranks exchange a bucket of gradients or weights.
struct LinkBenchOptions {
  int64_t bucket_mib = 128;  // of fp32 numbers; bf16 ones are as many
  int64_t repeats = 20;      // of each operation, one behind the other
};

struct LinkBenchRow {
  std::string operation;   // "reduce_scatter, bf16 into fp32"
  int64_t sent_bytes = 0;  // by each rank, and as many received
  double seconds = 0;      // of one, with the sums; the mean
  double rate() const { return static_cast<double>(sent_bytes) / seconds; }
};

/// All ranks call it; each returns its own times. `device` is this rank's.
std::vector<LinkBenchRow> bench_links(const LinkBenchOptions& options, c10::Device device, Communicator& ranks);

/// A table for people.
std::string link_bench_text(const std::vector<LinkBenchRow>& rows, const std::string& device_name, int64_t ranks);
/// A list of rows: operation, ranks, sent_bytes, seconds, bytes_per_s, card, commit.
std::string link_bench_json(const std::vector<LinkBenchRow>& rows, const std::string& device_name, int64_t ranks,
                            const std::string& commit);

}  // namespace dga

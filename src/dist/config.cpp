#include "dist/config.h"

namespace dga {

void ParallelConfig::fields(config::Fields& f) {
  f.field("threads", threads, "CPU threads for the mathematics of a process; 0 takes all cores, shared among the ranks",
          config::at_least(0));
  f.field("shard", shard,
          "what several ranks share out among themselves, each holding its part: none, the optimizer's state, or that "
          "and the summed gradients; the numbers are the same");
  f.field("reduce", reduce,
          "type in which gradients are summed over the ranks; between hosts, and of the sums of several micro-batches, "
          "fp32 moves twice the bytes of bf16");
  f.field("bucket_mib", bucket_mib, "MiB of gradients that are reduced together while backward goes on",
          config::at_least(1));
  f.field("timeout_seconds", timeout_seconds,
          "a rank that waits longer for the others ends the run; a rank that is gone does so within seconds",
          config::at_least(10));
}

}  // namespace dga

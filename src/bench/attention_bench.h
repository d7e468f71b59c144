#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "attention/config.h"

/// Times of one attention layer on a GPU, forward and backward, beside dense attention by cuDNN.
namespace dga {

/// One measurement: the shape and the attention settings. B batch, L sequence length, H heads, G KV heads, D head dim.
struct AttentionBenchCase {
  AttentionConfig attention;
  int64_t batch = 1;
  int64_t seq_len = 8192;
  int64_t heads = 32;
  int64_t kv_heads = 32;
  int64_t head_dim = 128;
  bool deterministic = false;
};

/// What a card does at best, measured in the same run.
struct CardRates {
  double product_flops = 0;  // FLOP/s of an 8192 x 8192 x 8192 bf16 product
  double copy_bytes = 0;     // bytes/s read and written by a device copy of 1 GiB
};

/// Counted work of one layer, forward and backward.
struct AttentionWork {
  double visible_pairs = 0;     // of all sequences and heads
  double forward_flops = 0;     // 4 D a visible pair
  double backward_flops = 0;    // 10 D
  double importance_flops = 0;  // 2 D a scored pair and pass; two passes under selection global
  double pooling_bytes = 0;     // keys, values, lists and their gradients, each read or written once
};
/// `visible_pairs`: of all sequences and heads, as the call really has them.
AttentionWork count_work(const AttentionBenchCase& c, double visible_pairs);

/// Milliseconds that `work` takes at the card's rates.
double limit_ms(const AttentionWork& work, const CardRates& rates);

struct AttentionBenchRow {
  AttentionBenchCase of;
  AttentionWork work;
  std::vector<std::pair<std::string, double>> stages_ms;  // in order; timed in calls of their own
  double forward_ms = 0;                                  // whole calls, without marks between stages
  double backward_ms = 0;
  std::optional<double> peer_forward_ms, peer_backward_ms;  // absent where cuDNN refuses the shape
  CardRates rates;
  std::string card;

  double total_ms() const { return forward_ms + backward_ms; }
  std::optional<double> stage_ms(const std::string& name) const;
};

/// Measures cases on the current GPU; keeps the card's rates and the peer's times, which are measured once a shape.
class AttentionBench {
 public:
  /// Throws a usage error where there is no GPU.
  explicit AttentionBench(int64_t repeats);
  /// Medians over the repeats after three warm-up calls. Inputs are random, and a random share γ of the keys is one
  /// that all queries attend to: under selection global, importance sums over the queries behind a key, so among
  /// equals it would pick the first tokens, which more queries see than any others (1.6 times the pairs at γ 0.1).
  /// Throws as attention does for a shape that the kernels refuse.
  AttentionBenchRow run(const AttentionBenchCase& c);

 private:
  struct PeerTimes {
    std::optional<double> forward_ms, backward_ms;
  };
  PeerTimes peer(const AttentionBenchCase& c);

  int64_t repeats_;
  CardRates rates_;
  std::string card_;
  std::map<std::vector<int64_t>, PeerTimes> peers_;  // by B, L, H, G, D
};

/// Two markdown tables: whole calls beside the peer, and the stages.
std::string attention_bench_table(const std::vector<AttentionBenchRow>& rows);

/// A JSON list of the rows; `commit` is that of the binary.
std::string attention_bench_json(const std::vector<AttentionBenchRow>& rows, const std::string& commit);

}  // namespace dga

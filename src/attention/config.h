#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/fields.h"

/// Settings of the attention kinds (section `attention`). The method is Dynamic Group Attention, arXiv 2505.22107.
namespace dga {

enum class AttentionKind { full, dga, streaming, lm_infinite, longformer };
inline auto enum_names(AttentionKind) {
  return config::names<AttentionKind>({{AttentionKind::full, "full"},
                                       {AttentionKind::dga, "dga"},
                                       {AttentionKind::streaming, "streaming"},
                                       {AttentionKind::lm_infinite, "lm_infinite"},
                                       {AttentionKind::longformer, "longformer"}});
}

/// Where a query of the kind streaming sees the first tokens: at their own positions, or as if the tokens in the cache
/// were numbered without gaps.
enum class SinkPositions { absolute, cache };
inline auto enum_names(SinkPositions) {
  return config::names<SinkPositions>({{SinkPositions::absolute, "absolute"}, {SinkPositions::cache, "cache"}});
}

/// What computes attention. `automatic` on a CPU: sdpa for full and the reference for the others; on a GPU: the
/// kernels, for full attention sdpa where they cannot.
enum class AttentionBackend { automatic, reference, sdpa, kernel };
inline auto enum_names(AttentionBackend) {
  return config::names<AttentionBackend>({{AttentionBackend::automatic, "auto"},
                                          {AttentionBackend::reference, "reference"},
                                          {AttentionBackend::sdpa, "sdpa"},
                                          {AttentionBackend::kernel, "kernel"}});
}

/// How focal tokens are chosen.
enum class Selection { global, causal, random, none };
inline auto enum_names(Selection) {
  return config::names<Selection>({{Selection::global, "global"},
                                   {Selection::causal, "causal"},
                                   {Selection::random, "random"},
                                   {Selection::none, "none"}});
}

/// Which queries score importance under Selection::global.
enum class QuerySampling { strided, recent, random };
inline auto enum_names(QuerySampling) {
  return config::names<QuerySampling>(
      {{QuerySampling::strided, "strided"}, {QuerySampling::recent, "recent"}, {QuerySampling::random, "random"}});
}

/// How the tokens of a group are pooled.
enum class GroupWeights { last_query, mean };
inline auto enum_names(GroupWeights) {
  return config::names<GroupWeights>({{GroupWeights::last_query, "last_query"}, {GroupWeights::mean, "mean"}});
}

/// What is added to the logit of a group.
enum class GroupBias { none, entropy };
inline auto enum_names(GroupBias) {
  return config::names<GroupBias>({{GroupBias::none, "none"}, {GroupBias::entropy, "entropy"}});
}

/// Layers whose kind differs from the section's, as "0-3,8".
struct LayerKind {
  std::string layers;
  AttentionKind kind = AttentionKind::full;

  void fields(config::Fields& f);
  void check(config::Checker& c) const;
};

struct AttentionConfig {
  AttentionKind kind = AttentionKind::full;
  AttentionBackend backend = AttentionBackend::automatic;
  double focal_ratio = 0.1;
  int64_t group_size = 16;
  Selection selection = Selection::global;
  int64_t sampled_queries = 1024;
  QuerySampling query_sampling = QuerySampling::strided;
  int64_t local_window = 1024;
  GroupWeights group_weights = GroupWeights::last_query;
  bool complementary = true;
  GroupBias group_bias = GroupBias::none;
  int64_t block_size = 256;
  int64_t local_blocks = 2;
  int64_t sink_tokens = 4;
  int64_t window = 1024;
  SinkPositions sink_positions = SinkPositions::absolute;
  bool keep_lists = true;
  std::vector<LayerKind> layers;

  void fields(config::Fields& f);
  void check(config::Checker& c) const;
};

/// The layer numbers of a list such as "0-3,8", in the order written; nothing if it is not such a list.
std::optional<std::vector<int64_t>> parse_layers(std::string_view text);

/// The kind of one layer: the last entry of `layers` that names it, else `kind`.
AttentionKind kind_of_layer(const AttentionConfig& config, int64_t layer);

/// The number of focal tokens among `length`: the ceiling of the double product ratio * length.
int64_t focal_count(double focal_ratio, int64_t length);

/// Whether the kind sees first tokens at distances that depend on counting positions from 0 without gaps.
bool moves_positions(const AttentionConfig& config, AttentionKind kind);

/// Query-key pairs that one head computes over a sequence of `length` tokens. Exact but for the selections global and
/// random. Under global and random the pairs depend on where the focal tokens lie; this counts
/// them spread evenly, which is off by at most (group_size - 1) * focal tokens * groups with complementary tokens.
double visible_pairs(const AttentionConfig& config, AttentionKind kind, int64_t length);

/// Whether the output at a position can depend on tokens after it, so that a perplexity must be marked.
bool looks_ahead(const AttentionConfig& config, AttentionKind kind);

/// Why token-by-token decoding is impossible with these settings, naming the rule; empty where it is possible.
std::string decoding_obstacle(const AttentionConfig& config, AttentionKind kind);

}  // namespace dga

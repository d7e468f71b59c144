#include "eval/attention_label.h"

#include <map>

namespace dga {
namespace {

std::string dga_label(const AttentionConfig& config) {
  std::string label = str("dga ", config::name_of(config.selection));
  if (config.selection != Selection::none) label += str(" γ", config.focal_ratio);
  label += str(" m", config.group_size);
  if (config.selection == Selection::causal) {
    label += str(" B", config.block_size, " n", config.local_blocks);
  } else {
    label += str(" w", config.local_window);
  }
  if (config.selection == Selection::global) {
    label += str(" S", config.sampled_queries);
    if (config.query_sampling != QuerySampling::strided) label += str(" ", config::name_of(config.query_sampling));
  }
  if (config.group_bias != GroupBias::none) label += str(" ", config::name_of(config.group_bias));
  if (config.group_weights != GroupWeights::last_query) label += str(" ", config::name_of(config.group_weights));
  if (!config.complementary && config.selection != Selection::causal) label += " no complementary";
  return label;
}

std::string kind_label(const AttentionConfig& config, AttentionKind kind) {
  if (kind == AttentionKind::full) return "full";
  if (kind == AttentionKind::dga) return dga_label(config);
  const bool cache = kind == AttentionKind::streaming && config.sink_positions == SinkPositions::cache;
  return str(config::name_of(kind), " s", config.sink_tokens, " w", config.window, cache ? " cache positions" : "");
}

}  // namespace

std::string attention_label(const AttentionConfig& config, int64_t layers) {
  std::map<AttentionKind, int64_t> counts;
  for (int64_t layer = 0; layer < layers; ++layer) ++counts[kind_of_layer(config, layer)];
  std::string label;
  for (const auto& [kind, count] : counts) {
    label += str(label.empty() ? "" : ", ", kind_label(config, kind));
    if (counts.size() > 1) label += str(" x", count);
  }
  return label;
}

}  // namespace dga

#include "eval/attention_label.h"

#include <algorithm>

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

}  // namespace

std::string attention_label(const AttentionConfig& config, int64_t layers) {
  int64_t grouped = 0;
  for (int64_t layer = 0; layer < layers; ++layer) grouped += kind_of_layer(config, layer) == AttentionKind::dga;
  if (grouped == 0) return "full";
  if (grouped == layers) return dga_label(config);
  return str("full x", layers - grouped, ", ", dga_label(config), " x", grouped);
}

}  // namespace dga

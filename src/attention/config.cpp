#include "attention/config.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace dga {
namespace {

// The number that `text` consists of, if it is a layer number.
std::optional<int64_t> parse_layer(std::string_view text) {
  const size_t first = text.find_first_not_of(' ');
  if (first == std::string_view::npos) return std::nullopt;
  text = text.substr(first, text.find_last_not_of(' ') - first + 1);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

bool uses(const AttentionConfig& config, AttentionKind kind) {
  return config.kind == kind || std::any_of(config.layers.begin(), config.layers.end(),
                                            [kind](const LayerKind& entry) { return entry.kind == kind; });
}

double full_pairs(int64_t length) { return 0.5 * static_cast<double>(length) * static_cast<double>(length + 1); }

double causal_pairs(const AttentionConfig& config, int64_t length) {
  const int64_t block = config.block_size;
  const int64_t focal = focal_count(config.focal_ratio, block);
  const int64_t entries = focal + (block - focal + config.group_size - 1) / config.group_size;
  double pairs = 0;
  for (int64_t b = 0; b * block < length; ++b) {
    const int64_t queries = std::min(block, length - b * block);
    const int64_t divided = std::max<int64_t>(0, b - config.local_blocks);
    const int64_t before = (b - divided) * block;  // local tokens of earlier blocks
    pairs += static_cast<double>(queries) * static_cast<double>(divided * entries + before) + full_pairs(queries);
  }
  return pairs;
}

// The window, and the first tokens before it.
double window_pairs(const AttentionConfig& config, int64_t length) {
  double pairs = 0;
  for (int64_t t = 0; t < length; ++t) {
    pairs += static_cast<double>(std::min(t + 1, config.window) +
                                 std::clamp<int64_t>(t + 1 - config.window, 0, config.sink_tokens));
  }
  return pairs;
}

// Global, random and none; the focal tokens are spread evenly.
double grouped_pairs(const AttentionConfig& config, int64_t length) {
  const int64_t focal = config.selection == Selection::none ? 0 : focal_count(config.focal_ratio, length);
  const int64_t window = std::min(config.local_window, length);
  std::vector<int64_t> last_members;
  double pairs = 0;
  int64_t focal_seen = 0, others_seen = 0, closed = 0;
  for (int64_t t = 0; t < length; ++t) {
    const int64_t focal_now = static_cast<int64_t>(static_cast<__int128>(t + 1) * focal / length);
    const bool is_focal = focal_now > focal_seen;
    focal_seen = focal_now;
    if (!is_focal && ++others_seen % config.group_size == 0) last_members.push_back(t);
    while (closed < static_cast<int64_t>(last_members.size()) &&
           last_members[static_cast<size_t>(closed)] + window <= t) {
      ++closed;
    }
    const int64_t single = config.complementary ? others_seen - config.group_size * closed : (is_focal ? 0 : 1);
    pairs += static_cast<double>(focal_seen + closed + single);
  }
  return pairs;
}

}  // namespace

void LayerKind::fields(config::Fields& f) {
  f.field("layers", layers, "layer numbers from 0, as \"0-3,8\"");
  f.field("kind", kind, "the attention kind of these layers");
}

void LayerKind::check(config::Checker& c) const {
  c.require(parse_layers(layers).has_value(), "layers",
            "\"" + layers + "\" is no list of layer numbers; write it as \"0-3,8\"");
}

void AttentionConfig::fields(config::Fields& f) {
  f.field("kind", kind,
          "full: causal attention; dga: Dynamic Group Attention (arXiv 2505.22107); and the first tokens with a window "
          "of the last: streaming (StreamingLLM, arXiv 2309.17453), lm_infinite (arXiv 2308.16137: the first tokens at "
          "distance window), longformer (arXiv 2004.05150: leading global tokens)");
  f.field(
      "backend", backend,
      "what computes attention: kernel (the CUDA kernels; bf16, head dim 64 or 128, Hopper), sdpa (LibTorch's fused "
      "attention; full only), reference (plain operations in chunks); auto is kernel on a GPU, on a CPU sdpa for "
      "full and reference for the others");
  f.field("focal_ratio", focal_ratio, "share of tokens kept as they are; their number is rounded up",
          config::between(0, 1));
  f.field("group_size", group_size, "tokens pooled into one entry", config::at_least(1));
  f.field("selection", selection,
          "how focal tokens are chosen: global (the paper's rule; looks ahead), causal (block by block, never looks "
          "ahead), random or none (ablations)");
  f.field("sampled_queries", sampled_queries,
          "queries that score importance under selection: global; all if the sequence is shorter", config::at_least(1));
  f.field("query_sampling", query_sampling,
          "which queries score: strided (evenly spaced, the last one included), recent (the last ones) or random");
  f.field("local_window", local_window,
          "a group is used only this many positions after its last member, so that nearer tokens stay visible one by "
          "one; not used under selection: causal",
          config::at_least(0));
  f.field("group_weights", group_weights,
          "weights of a group's members: last_query (softmax of the query at the last member) or mean (ablation)");
  f.field(
      "complementary", complementary,
      "whether ungrouped tokens stay visible; off (ablation): closed groups, focal tokens and the query's own token");
  f.field("group_bias", group_bias,
          "added to a group's logit: none (the paper), or the entropy of its weights, so that it counts as several "
          "tokens");
  f.field("block_size", block_size, "tokens a block under selection: causal", config::at_least(1));
  f.field("local_blocks", local_blocks, "earlier blocks whose tokens stay visible one by one under selection: causal",
          config::at_least(0));
  f.field("sink_tokens", sink_tokens,
          "first tokens that stay visible under streaming, lm_infinite and longformer (its global tokens)",
          config::at_least(0));
  f.field("window", window, "last tokens that a query sees under these three, its own included", config::at_least(1));
  f.field("sink_positions", sink_positions,
          "streaming: the first tokens at their own (absolute) positions, or as numbered within the cache");
  f.field("keep_lists", keep_lists,
          "backend kernel: whether the backward pass finds the compact and the second list kept (about 1.1 times the "
          "memory of K and V a layer) or makes them again");
  f.list("layers", layers, "layers whose kind differs from attention.kind; a later entry wins");
}

void AttentionConfig::check(config::Checker& c) const {
  const bool any_dga = uses(*this, AttentionKind::dga);
  for (const auto& [other, name] : enum_names(AttentionKind{})) {
    if (other == AttentionKind::full || !uses(*this, other)) continue;
    c.require(backend != AttentionBackend::sdpa, "backend",
              str("sdpa computes full attention only and some layers are ", name, "; use auto or reference"));
    c.require(!moves_positions(*this, other) || backend != AttentionBackend::kernel, "backend",
              str("there are no kernels for ", name, ", which moves positions; use reference"));
  }
  c.require(!(any_dga && selection == Selection::causal && !complementary), "complementary",
            "off has no meaning under selection: causal, whose local blocks are always visible; set it to true");
}

std::optional<std::vector<int64_t>> parse_layers(std::string_view text) {
  constexpr int64_t kMostLayers = 100000;
  std::vector<int64_t> layers;
  while (true) {
    const size_t comma = text.find(',');
    const std::string_view item = text.substr(0, comma);
    const size_t dash = item.find('-');
    const std::optional<int64_t> first = parse_layer(item.substr(0, dash));
    const std::optional<int64_t> last = dash == std::string_view::npos ? first : parse_layer(item.substr(dash + 1));
    if (!first || !last || *first > *last || *last >= kMostLayers) return std::nullopt;
    for (int64_t layer = *first; layer <= *last; ++layer) layers.push_back(layer);
    if (comma == std::string_view::npos) return layers;
    text.remove_prefix(comma + 1);
  }
}

AttentionKind kind_of_layer(const AttentionConfig& config, int64_t layer) {
  AttentionKind kind = config.kind;
  for (const LayerKind& entry : config.layers) {
    const std::optional<std::vector<int64_t>> layers = parse_layers(entry.layers);
    if (layers && std::find(layers->begin(), layers->end(), layer) != layers->end()) kind = entry.kind;
  }
  return kind;
}

int64_t focal_count(double focal_ratio, int64_t length) {
  return static_cast<int64_t>(std::ceil(focal_ratio * static_cast<double>(length)));
}

bool moves_positions(const AttentionConfig& config, AttentionKind kind) {
  return kind == AttentionKind::lm_infinite ||
         (kind == AttentionKind::streaming && config.sink_positions == SinkPositions::cache);
}

double visible_pairs(const AttentionConfig& config, AttentionKind kind, int64_t length) {
  if (kind == AttentionKind::full) return full_pairs(length);
  if (kind != AttentionKind::dga) return window_pairs(config, length);
  return config.selection == Selection::causal ? causal_pairs(config, length) : grouped_pairs(config, length);
}

bool looks_ahead(const AttentionConfig& config, AttentionKind kind) {
  return kind == AttentionKind::dga && config.selection == Selection::global;
}

std::string decoding_obstacle(const AttentionConfig& config, AttentionKind kind) {
  if (kind != AttentionKind::dga || config.selection == Selection::causal) return {};
  return "attention.selection: " + config::name_of(config.selection) +
         " divides the tokens of a whole sequence at once, and decoding needs a cache that regroups as tokens come, "
         "which this version does not have; use attention.selection: causal or attention.kind: full";
}

}  // namespace dga

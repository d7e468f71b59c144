#include "attention/kernel_backend.h"

#include <cmath>

#include "attention/query_sampling.h"
#include "ops/kernel_attention.h"
#include "util/error.h"
#include "util/random.h"

namespace dga {
namespace {

uint64_t part(int64_t x) { return static_cast<uint64_t>(x); }

void add_samples(GroupedAttention& attention, const SequenceSpan& span, const AttentionConfig& config,
                 const RandomKey& key) {
  const CounterRng rng({key.seed, part(key.layer), part(span.number)});
  auto& positions = attention.sample_positions[static_cast<size_t>(span.row)];
  auto& begins = attention.sample_begins[static_cast<size_t>(span.row)];
  for (const int64_t position : sampled_positions(config.query_sampling, config.sampled_queries, span.length, rng)) {
    positions.push_back(static_cast<int32_t>(span.begin + position));
    begins.push_back(static_cast<int32_t>(span.begin));
  }
}

void add_random_focal(GroupedAttention& attention, const SequenceSpan& span, const AttentionConfig& config,
                      const RandomKey& key, int64_t kv_heads) {
  for (int64_t head = 0; head < kv_heads; ++head) {
    const CounterRng rng({key.seed, part(key.layer), part(head), part(span.number)});
    auto& focal = attention.focal[static_cast<size_t>(span.row * kv_heads + head)];
    for (const int64_t position : rng.sample(span.length, focal_count(config.focal_ratio, span.length))) {
      focal.push_back(static_cast<int32_t>(span.begin + position));
    }
  }
}

}  // namespace

kernels::GroupingSettings grouping_settings(const AttentionConfig& config) {
  kernels::GroupingSettings settings;
  const bool blocks = config.selection == Selection::causal;
  settings.rule = blocks ? kernels::GroupingRule::block : kernels::GroupingRule::sequence;
  settings.focal_ratio = config.selection == Selection::none ? 0.0 : config.focal_ratio;
  settings.group_size = config.group_size;
  settings.local_window = config.local_window;
  settings.complementary = config.complementary;
  settings.block_size = config.block_size;
  settings.local_blocks = config.local_blocks;
  return settings;
}

namespace {

std::string obstacle(const AttentionConfig& config, AttentionKind kind, const at::Tensor& q, const at::Tensor& k) {
  if (kind == AttentionKind::dga) return kernel_grouped_obstacle(q, k, grouping_settings(config));
  if (moves_positions(config, kind)) {
    return "the attention kernels have one query for all keys, and attention.kind: " + config::name_of(kind) +
           " sees the first tokens at other distances than the last";
  }
  return kernel_attention_obstacle(q, k);
}

}  // namespace

bool use_kernels(const AttentionConfig& config, AttentionKind kind, const at::Tensor& q, const at::Tensor& k) {
  const bool required = config.backend == AttentionBackend::kernel;
  if (!required && (config.backend != AttentionBackend::automatic || !q.is_cuda())) return false;
  const std::string reason = obstacle(config, kind, q, k);
  if (reason.empty()) return true;
  if (!required && kind == AttentionKind::full) return false;
  fail(ExitCode::config, "attention.backend: ", reason,
       "; attention.backend: reference computes the same with LibTorch's operations, slowly");
}

GroupedAttention grouped_attention(const at::Tensor& q, const at::Tensor& k, const SequenceLayout& layout,
                                   const AttentionConfig& config, const RandomKey& key) {
  GroupedAttention attention;
  attention.grouping = grouping_settings(config);
  attention.mean_weights = config.group_weights == GroupWeights::mean;
  attention.entropy_bias = config.group_bias == GroupBias::entropy;
  attention.keep_lists = config.keep_lists;
  attention.scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
  attention.starts = layout.starts;
  const auto rows = static_cast<size_t>(q.size(0));
  const int64_t kv_heads = k.size(2);
  switch (config.selection) {
    case Selection::global:
      attention.sample_positions.resize(rows);
      attention.sample_begins.resize(rows);
      for (const SequenceSpan& span : sequences(layout, q.size(1))) add_samples(attention, span, config, key);
      break;
    case Selection::causal:
      attention.source = FocalSource::block_queries;
      break;
    case Selection::random:
      attention.source = FocalSource::given;
      attention.focal.resize(rows * static_cast<size_t>(kv_heads));
      for (const SequenceSpan& span : sequences(layout, q.size(1))) {
        add_random_focal(attention, span, config, key, kv_heads);
      }
      break;
    case Selection::none:
      attention.source = FocalSource::given;
      break;
  }
  return attention;
}

at::Tensor kernel_dga_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                const SequenceLayout& layout, const AttentionConfig& config, const RandomKey& key,
                                AttentionMemory* memory) {
  return kernel_grouped_attention(q, k, v, grouped_attention(q, k, layout, config, key), memory);
}

}  // namespace dga

#include "ops/kernel_grouping.h"

#include <ATen/cuda/CUDAContext.h>

#include <algorithm>

#include "kernels/grouping/score.h"
#include "ops/kernel_tensors.h"

namespace dga {
namespace {

int64_t words_of(int64_t length) { return (length + 31) / 32; }

kernels::FocalSet focal_set(const GroupingPlan& plan, const GroupedLists& lists) {
  kernels::FocalSet focal;
  focal.table = kernels::table_at(plan.segments, plan.device.data_ptr());
  focal.batch = lists.token_order.size(0);
  focal.kv_heads = lists.token_order.size(1);
  focal.length = lists.token_order.size(2);
  focal.bits = reinterpret_cast<uint32_t*>(lists.bits.data_ptr<int32_t>());
  focal.word_ranks = lists.word_ranks.data_ptr<int32_t>();
  focal.token_order = lists.token_order.data_ptr<int32_t>();
  return focal;
}

kernels::Bounds bounds_of(const GroupedLists& lists) {
  const auto part = [&](int64_t i) { return lists.bounds[i].data_ptr<int32_t>(); };
  return {part(0), part(1), part(2), part(3)};
}

// A token stays visible one by one until its group closes, or to the queries of its own and the next blocks.
int64_t second_span(const kernels::GroupingSettings& grouping) {
  if (grouping.rule == kernels::GroupingRule::block) return grouping.block_size * (grouping.local_blocks + 1);
  return grouping.complementary ? grouping.group_size + grouping.local_window : 1;
}

GroupedLists allocate_lists(const at::Tensor& q, const at::Tensor& k, const GroupingPlan& plan,
                            const at::Tensor& bits) {
  const int64_t batch = q.size(0), length = q.size(1), kv_heads = k.size(2), words = words_of(length);
  const int64_t compact = plan.segments.compact_length;
  const auto integers = q.options().dtype(at::kInt);
  const auto list = [&](int64_t rows) {
    return at::empty({batch, kv_heads, std::max<int64_t>(rows, 1), q.size(3)}, q.options());
  };
  GroupedLists lists;
  lists.bits = bits.defined() ? bits : at::empty({batch, kv_heads, words}, integers);
  lists.word_ranks = at::empty({batch, kv_heads, words}, integers);
  lists.token_order = at::empty({batch, kv_heads, length}, integers);
  lists.bounds = at::empty({4, batch, kv_heads, length}, integers);
  lists.compact_key = list(compact);
  lists.compact_value = list(compact);
  if (!plan.second_list_is_tokens()) {
    lists.second_key = list(plan.segments.second_length);
    lists.second_value = list(plan.segments.second_length);
  }
  if (plan.attention.entropy_bias && compact > 0) {
    lists.bias = at::empty({batch, kv_heads, (compact + 3) / 4 * 4}, q.options().dtype(at::kFloat));
  }
  return lists;
}

void score_tokens(const at::Tensor& q, const at::Tensor& k, const GroupingPlan& plan, const GroupedLists& lists,
                  const at::Tensor& importance) {
  const auto stream = at::cuda::getCurrentCUDAStream();
  if (plan.attention.source == FocalSource::sampled_queries) {
    const at::Tensor workspace = bytes_on(q, kernels::score_workspace_bytes(shape_of(q, k), plan.sample_count));
    const auto* table = plan.device.data_ptr<uint8_t>();
    kernels::ScoreParams params;
    params.shape = shape_of(q, k);
    params.query = tokens_ref(q);
    params.key = tokens_ref(k);
    params.table = {reinterpret_cast<const int32_t*>(table + plan.samples_offset),
                    reinterpret_cast<const int32_t*>(table + plan.begins_offset), plan.sample_count};
    params.scale = static_cast<float>(plan.attention.scale);
    params.importance = importance.data_ptr<float>();
    params.workspace = workspace.data_ptr();
    kernels::score(params, stream);
  } else {
    kernels::BlockScoreParams params;
    params.shape = shape_of(q, k);
    params.query = tokens_ref(q);
    params.key = tokens_ref(k);
    params.table = focal_set(plan, lists).table;
    params.local_blocks = plan.attention.grouping.local_blocks;
    params.scale = static_cast<float>(plan.attention.scale);
    params.importance = importance.data_ptr<float>();
    kernels::score_blocks(params, stream);
  }
  plan.mark("importance");
}

}  // namespace

c10::intrusive_ptr<GroupingPlan> make_grouping_plan(const at::Tensor& q, const at::Tensor& k,
                                                    const GroupedAttention& attention, const at::Tensor& device) {
  const int64_t batch = q.size(0), length = q.size(1), kv_heads = k.size(2), words = words_of(length);
  auto plan = c10::make_intrusive<GroupingPlan>();
  plan->attention = attention;
  plan->segments = kernels::plan_segments(attention.starts, length, attention.grouping);
  for (const auto& positions : attention.sample_positions) {
    plan->sample_count = std::max(plan->sample_count, static_cast<int64_t>(positions.size()));
  }
  const auto aligned = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
  const bool given = attention.source == FocalSource::given;
  plan->samples_offset = aligned(static_cast<int64_t>(kernels::table_bytes(plan->segments)));
  plan->begins_offset = plan->samples_offset + aligned(batch * plan->sample_count * 4);
  plan->bits_offset = plan->begins_offset + aligned(batch * plan->sample_count * 4);
  const int64_t total = plan->bits_offset + (given ? aligned(batch * kv_heads * words * 4) : 0);
  plan->device = device;
  if (device.defined()) return plan;

  const at::Tensor host = at::zeros({total}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
  auto* bytes = host.data_ptr<uint8_t>();
  kernels::write_table(plan->segments, bytes);
  auto* positions = reinterpret_cast<int32_t*>(bytes + plan->samples_offset);
  auto* begins = reinterpret_cast<int32_t*>(bytes + plan->begins_offset);
  std::fill_n(positions, batch * plan->sample_count, -1);
  for (size_t row = 0; row < attention.sample_positions.size(); ++row) {
    std::copy(attention.sample_positions[row].begin(), attention.sample_positions[row].end(),
              positions + static_cast<int64_t>(row) * plan->sample_count);
    std::copy(attention.sample_begins[row].begin(), attention.sample_begins[row].end(),
              begins + static_cast<int64_t>(row) * plan->sample_count);
  }
  auto* bits = reinterpret_cast<uint32_t*>(bytes + plan->bits_offset);
  for (size_t row = 0; given && row < attention.focal.size(); ++row) {
    for (const int32_t position : attention.focal[row]) {
      bits[static_cast<int64_t>(row) * words + position / 32] |= uint32_t{1} << (position % 32);
    }
  }
  plan->device = host.to(q.device(), /*non_blocking=*/true);
  return plan;
}

std::vector<at::Tensor> GroupedLists::tensors() const {
  return {bits, word_ranks, token_order, bounds, compact_key, compact_value, second_key, second_value, bias};
}

GroupedLists GroupedLists::from(const std::vector<at::Tensor>& tensors, size_t first) {
  GroupedLists lists;
  size_t next = first;
  for (at::Tensor* tensor : {&lists.bits, &lists.word_ranks, &lists.token_order, &lists.bounds, &lists.compact_key,
                             &lists.compact_value, &lists.second_key, &lists.second_value, &lists.bias}) {
    *tensor = tensors.at(next++);
  }
  return lists;
}

at::Tensor given_bits(const at::Tensor& q, const at::Tensor& k, const GroupingPlan& plan) {
  if (plan.attention.source != FocalSource::given) return {};
  const int64_t words = words_of(q.size(1)), count = q.size(0) * k.size(2) * words;
  return plan.device.slice(0, plan.bits_offset, plan.bits_offset + count * 4)
      .view(at::kInt)
      .view({q.size(0), k.size(2), words});
}

kernels::AttentionInputs attention_inputs(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                          const GroupingPlan& plan, const GroupedLists& lists) {
  kernels::AttentionInputs inputs;
  inputs.shape = shape_of(q, k);
  inputs.shape.compact_length = plan.segments.compact_length;
  inputs.shape.second_length = plan.segments.second_length;
  inputs.shape.second_span = second_span(plan.attention.grouping);
  inputs.query = tokens_ref(q);
  inputs.compact_key = list_ref(lists.compact_key);
  inputs.compact_value = list_ref(lists.compact_value);
  inputs.second_key = plan.second_list_is_tokens() ? tokens_ref(k) : list_ref(lists.second_key);
  inputs.second_value = plan.second_list_is_tokens() ? tokens_ref(v) : list_ref(lists.second_value);
  inputs.bounds = bounds_of(lists);
  if (lists.bias.defined()) {
    inputs.bias_stride = lists.bias.size(2);
    inputs.compact_bias = lists.bias.data_ptr<float>();
  }
  inputs.scale = static_cast<float>(plan.attention.scale);
  return inputs;
}

kernels::CompressParams compress_params(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                        const GroupingPlan& plan, const GroupedLists& lists) {
  const kernels::AttentionInputs inputs = attention_inputs(q, k, v, plan, lists);
  kernels::CompressParams params;
  params.shape = inputs.shape;
  params.focal = focal_set(plan, lists);
  params.pooling = plan.attention.mean_weights ? kernels::GroupPooling::mean : kernels::GroupPooling::last_query;
  params.scale = inputs.scale;
  params.query = inputs.query;
  params.key = tokens_ref(k);
  params.value = tokens_ref(v);
  params.bias_stride = inputs.bias_stride;
  return params;
}

GroupedLists make_grouped_lists(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const GroupingPlan& plan,
                                const at::Tensor& bits) {
  const auto stream = at::cuda::getCurrentCUDAStream();
  GroupedLists lists = allocate_lists(q, k, plan, bits);
  const kernels::FocalSet focal = focal_set(plan, lists);
  if (!bits.defined()) {
    const at::Tensor importance = at::empty({q.size(0), k.size(2), q.size(1)}, q.options().dtype(at::kFloat));
    score_tokens(q, k, plan, lists, importance);
    kernels::select({focal, importance.data_ptr<float>()}, stream);
    plan.mark("select");
  }
  const auto part = [&](int64_t i) { return lists.bounds[i].data_ptr<int32_t>(); };
  kernels::order({focal, part(0), part(1), part(2), part(3)}, stream);
  plan.mark("order");

  kernels::CompressForwardParams compress;
  compress.common = compress_params(q, k, v, plan, lists);
  compress.compact_key = list_ref(lists.compact_key);
  compress.compact_value = list_ref(lists.compact_value);
  if (lists.second_key.defined()) {
    compress.second_key = list_ref(lists.second_key);
    compress.second_value = list_ref(lists.second_value);
  }
  compress.bias = lists.bias.defined() ? lists.bias.data_ptr<float>() : nullptr;
  kernels::compress_forward(compress, stream);
  plan.mark("compress");
  return lists;
}

}  // namespace dga

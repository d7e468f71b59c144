#include "ops/kernel_attention.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/autograd.h>

#include <algorithm>
#include <cstring>

#include "kernels/attention/attention.h"
#include "kernels/grouping/grouping.h"
#include "kernels/grouping/score.h"
#include "util/error.h"

namespace dga {
namespace {

using kernels::TensorRef;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

// [B, rows, heads, D]
TensorRef tokens_ref(const at::Tensor& x) { return {x.data_ptr(), x.stride(0), x.stride(1), x.stride(2)}; }
// [B, heads, rows, D]
TensorRef list_ref(const at::Tensor& x) { return {x.data_ptr(), x.stride(0), x.stride(2), x.stride(1)}; }

// The copy engine needs a contiguous head dim and 16-byte steps.
at::Tensor loadable(const at::Tensor& x) {
  const bool aligned = x.stride(3) == 1 && x.stride(0) % 8 == 0 && x.stride(1) % 8 == 0 && x.stride(2) % 8 == 0 &&
                       reinterpret_cast<uintptr_t>(x.data_ptr()) % 16 == 0;
  return aligned ? x : x.contiguous();
}

at::Tensor bytes_on(const at::Tensor& like, size_t size) {
  return at::empty({static_cast<int64_t>(std::max<size_t>(size, 1))}, like.options().dtype(at::kByte));
}

kernels::Shape shape_of(const at::Tensor& q, const at::Tensor& k) {
  return {q.size(0), q.size(1), q.size(2), k.size(2), q.size(3), 0, 0};
}

struct ForwardResult {
  at::Tensor output, log_sum_exp;
};

ForwardResult attend(const at::Tensor& q, const kernels::AttentionInputs& inputs) {
  ForwardResult result{at::empty(q.sizes(), q.options()),
                       at::empty({q.size(0), q.size(2), q.size(1)}, q.options().dtype(at::kFloat))};
  kernels::forward({inputs, tokens_ref(result.output), result.log_sum_exp.data_ptr<float>()},
                   at::cuda::getCurrentCUDAStream());
  return result;
}

struct ListGradients {
  TensorRef compact_key, compact_value, second_key, second_value;
  float* bias = nullptr;
};

at::Tensor attend_backward(const at::Tensor& q, const kernels::AttentionInputs& inputs, const at::Tensor& output,
                           const at::Tensor& log_sum_exp, const at::Tensor& grad_output,
                           const ListGradients& gradients) {
  const bool deterministic = at::globalContext().deterministicAlgorithms();
  const at::Tensor workspace = bytes_on(q, kernels::backward_workspace_bytes(inputs.shape, deterministic));
  const at::Tensor grad = loadable(grad_output);
  at::Tensor grad_query = at::empty(q.sizes(), q.options());
  kernels::BackwardParams params;
  params.inputs = inputs;
  params.output = tokens_ref(output);
  params.log_sum_exp = log_sum_exp.data_ptr<float>();
  params.grad_output = tokens_ref(grad);
  params.grad_query = tokens_ref(grad_query);
  params.grad_compact_key = gradients.compact_key;
  params.grad_compact_value = gradients.compact_value;
  params.grad_second_key = gradients.second_key;
  params.grad_second_value = gradients.second_value;
  params.grad_bias = gradients.bias;
  params.deterministic = deterministic;
  params.workspace = workspace.data_ptr();
  kernels::backward(params, at::cuda::getCurrentCUDAStream());
  return grad_query;
}

// Full causal attention: the compact list is K and V, the second is empty.
struct FullLists {
  at::Tensor begin, end, zero;
  kernels::AttentionInputs inputs;
};

FullLists full_lists(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& begin,
                     double scale) {
  const int64_t batch = q.size(0), length = q.size(1), kv_heads = k.size(2);
  FullLists full;
  const auto integers = q.options().dtype(at::kInt);
  full.begin = begin;
  full.end = at::arange(1, length + 1, integers).expand({batch, kv_heads, length}).contiguous();
  full.zero = at::zeros({batch, kv_heads, length}, integers);
  full.inputs.shape = shape_of(q, k);
  full.inputs.query = tokens_ref(q);
  full.inputs.scale = static_cast<float>(scale);
  full.inputs.shape.compact_length = length;
  full.inputs.compact_key = tokens_ref(k);
  full.inputs.compact_value = tokens_ref(v);
  full.inputs.bounds = {begin.numel() > 0 ? begin.data_ptr<int32_t>() : nullptr, full.end.data_ptr<int32_t>(),
                        full.zero.data_ptr<int32_t>(), full.zero.data_ptr<int32_t>()};
  return full;
}

class FullFunction : public torch::autograd::Function<FullFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& query, const at::Tensor& key,
                            const at::Tensor& value, const at::Tensor& begin, double scale) {
    const c10::cuda::CUDAGuard guard(query.device());
    const at::Tensor q = loadable(query), k = loadable(key), v = loadable(value);
    const ForwardResult result = attend(q, full_lists(q, k, v, begin, scale).inputs);
    context->saved_data["scale"] = scale;
    context->save_for_backward({q, k, v, begin, result.output, result.log_sum_exp});
    return result.output;
  }

  static tensor_list backward(AutogradContext* context, tensor_list grad_outputs) {
    const tensor_list saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const c10::cuda::CUDAGuard guard(q.device());
    const FullLists full = full_lists(q, k, v, saved[3], context->saved_data["scale"].toDouble());
    const at::Tensor grad_key = at::empty(k.sizes(), k.options()), grad_value = at::empty(v.sizes(), v.options());
    const ListGradients gradients{tokens_ref(grad_key), tokens_ref(grad_value), {}, {}, nullptr};
    const at::Tensor grad_query = attend_backward(q, full.inputs, saved[4], saved[5], grad_outputs[0], gradients);
    return {grad_query, grad_key, grad_value, at::Tensor(), at::Tensor()};
  }
};

// The host's part of a grouped call, in one copy on the device: segments, sampled queries, given focal bits.
struct Plan : torch::CustomClassHolder {
  kernels::SegmentPlan segments;
  GroupedAttention attention;
  at::Tensor device;  // bytes
  int64_t sample_count = 0, samples_offset = 0, begins_offset = 0, bits_offset = 0;
};

c10::intrusive_ptr<Plan> make_plan(const at::Tensor& q, const at::Tensor& k, const GroupedAttention& attention) {
  const int64_t batch = q.size(0), length = q.size(1), kv_heads = k.size(2), words = (length + 31) / 32;
  auto plan = c10::make_intrusive<Plan>();
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

// Focal set and lists of one call.
struct Grouping {
  at::Tensor bits, word_ranks, token_order, bounds, compact_key, compact_value, second_key, second_value, bias;
  kernels::FocalSet focal;
  kernels::AttentionInputs inputs;
};

void select_focal(const at::Tensor& q, const at::Tensor& k, const Plan& plan, Grouping& grouping) {
  const auto stream = at::cuda::getCurrentCUDAStream();
  const at::Tensor importance = at::empty({q.size(0), k.size(2), q.size(1)}, q.options().dtype(at::kFloat));
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
    params.table = grouping.focal.table;
    params.local_blocks = plan.attention.grouping.local_blocks;
    params.scale = static_cast<float>(plan.attention.scale);
    params.importance = importance.data_ptr<float>();
    kernels::score_blocks(params, stream);
  }
  kernels::select({grouping.focal, importance.data_ptr<float>()}, stream);
}

kernels::CompressParams compress_params(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Plan& plan,
                                        const Grouping& grouping) {
  kernels::CompressParams params;
  params.shape = grouping.inputs.shape;
  params.focal = grouping.focal;
  params.pooling = plan.attention.mean_weights ? kernels::GroupPooling::mean : kernels::GroupPooling::last_query;
  params.scale = static_cast<float>(plan.attention.scale);
  params.query = tokens_ref(q);
  params.key = tokens_ref(k);
  params.value = tokens_ref(v);
  params.bias_stride = grouping.inputs.bias_stride;
  return params;
}

// Orders and pools; selects first unless `bits` are known.
Grouping make_grouping(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Plan& plan,
                       const at::Tensor& bits) {
  const auto stream = at::cuda::getCurrentCUDAStream();
  const int64_t batch = q.size(0), length = q.size(1), kv_heads = k.size(2), words = (length + 31) / 32;
  const int64_t compact = plan.segments.compact_length, second = plan.segments.second_length;
  const bool blocks = plan.attention.grouping.rule == kernels::GroupingRule::block;
  const auto integers = q.options().dtype(at::kInt);
  Grouping grouping;
  grouping.word_ranks = at::empty({batch, kv_heads, words}, integers);
  grouping.token_order = at::empty({batch, kv_heads, length}, integers);
  grouping.bits = bits.defined() ? bits : at::empty({batch, kv_heads, words}, integers);
  grouping.focal.table = kernels::table_at(plan.segments, plan.device.data_ptr());
  grouping.focal.batch = batch;
  grouping.focal.length = length;
  grouping.focal.kv_heads = kv_heads;
  grouping.focal.bits = reinterpret_cast<uint32_t*>(grouping.bits.data_ptr<int32_t>());
  grouping.focal.word_ranks = grouping.word_ranks.data_ptr<int32_t>();
  grouping.focal.token_order = grouping.token_order.data_ptr<int32_t>();
  if (!bits.defined()) select_focal(q, k, plan, grouping);

  grouping.bounds = at::empty({4, batch, kv_heads, length}, integers);
  kernels::OrderParams order;
  order.focal = grouping.focal;
  order.first_begin = grouping.bounds[0].data_ptr<int32_t>();
  order.first_end = grouping.bounds[1].data_ptr<int32_t>();
  order.second_begin = grouping.bounds[2].data_ptr<int32_t>();
  order.second_end = grouping.bounds[3].data_ptr<int32_t>();
  kernels::order(order, stream);

  kernels::AttentionInputs& lists = grouping.inputs;
  lists.shape = shape_of(q, k);
  lists.query = tokens_ref(q);
  lists.scale = static_cast<float>(plan.attention.scale);
  lists.shape.compact_length = compact;
  lists.shape.second_length = second;
  lists.bounds = {order.first_begin, order.first_end, order.second_begin, order.second_end};
  const auto list = [&](int64_t rows) {
    return at::empty({batch, kv_heads, std::max<int64_t>(rows, 1), q.size(3)}, q.options());
  };
  grouping.compact_key = list(compact);
  grouping.compact_value = list(compact);
  lists.compact_key = list_ref(grouping.compact_key);
  lists.compact_value = list_ref(grouping.compact_value);
  if (!blocks) {
    grouping.second_key = list(second);
    grouping.second_value = list(second);
  }
  lists.second_key = blocks ? tokens_ref(k) : list_ref(grouping.second_key);
  lists.second_value = blocks ? tokens_ref(v) : list_ref(grouping.second_value);
  if (plan.attention.entropy_bias && compact > 0) {
    lists.bias_stride = (compact + 3) / 4 * 4;
    grouping.bias = at::empty({batch, kv_heads, lists.bias_stride}, q.options().dtype(at::kFloat));
    lists.compact_bias = grouping.bias.data_ptr<float>();
  }
  kernels::CompressForwardParams compress;
  compress.common = compress_params(q, k, v, plan, grouping);
  compress.compact_key = lists.compact_key;
  compress.compact_value = lists.compact_value;
  if (!blocks) {
    compress.second_key = lists.second_key;
    compress.second_value = lists.second_value;
  }
  compress.bias = grouping.bias.defined() ? grouping.bias.data_ptr<float>() : nullptr;
  kernels::compress_forward(compress, stream);
  return grouping;
}

at::Tensor given_bits(const at::Tensor& q, const at::Tensor& k, const Plan& plan) {
  if (plan.attention.source != FocalSource::given) return {};
  const int64_t words = (q.size(1) + 31) / 32, count = q.size(0) * k.size(2) * words;
  return plan.device.slice(0, plan.bits_offset, plan.bits_offset + count * 4)
      .view(at::kInt)
      .view({q.size(0), k.size(2), words});
}

class GroupedFunction : public torch::autograd::Function<GroupedFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& query, const at::Tensor& key,
                            const at::Tensor& value, const c10::intrusive_ptr<Plan>& plan) {
    const c10::cuda::CUDAGuard guard(query.device());
    const at::Tensor q = loadable(query), k = loadable(key), v = loadable(value);
    const Grouping grouping = make_grouping(q, k, v, *plan, given_bits(q, k, *plan));
    const ForwardResult result = attend(q, grouping.inputs);
    context->saved_data["plan"] = c10::IValue::make_capsule(plan);
    context->save_for_backward({q, k, v, grouping.bits, result.output, result.log_sum_exp});
    return result.output;
  }

  static tensor_list backward(AutogradContext* context, tensor_list grad_outputs) {
    const tensor_list saved = context->get_saved_variables();
    const auto plan = c10::static_intrusive_pointer_cast<Plan>(context->saved_data["plan"].toCapsule());
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const c10::cuda::CUDAGuard guard(q.device());
    const Grouping grouping = make_grouping(q, k, v, *plan, saved[3]);
    const bool blocks = plan->attention.grouping.rule == kernels::GroupingRule::block;

    const at::Tensor grad_key = at::empty(k.sizes(), k.options()), grad_value = at::empty(v.sizes(), v.options());
    const at::Tensor compact_key = at::empty_like(grouping.compact_key), compact_value = at::empty_like(compact_key);
    at::Tensor second_key, second_value, bias;
    ListGradients gradients{list_ref(compact_key), list_ref(compact_value), {}, {}, nullptr};
    if (blocks) {  // the second list is K and V themselves
      gradients.second_key = tokens_ref(grad_key);
      gradients.second_value = tokens_ref(grad_value);
    } else {
      second_key = at::empty_like(grouping.second_key);
      second_value = at::empty_like(grouping.second_value);
      gradients.second_key = list_ref(second_key);
      gradients.second_value = list_ref(second_value);
    }
    if (grouping.bias.defined()) {
      bias = at::empty_like(grouping.bias);
      gradients.bias = bias.data_ptr<float>();
    }
    const at::Tensor grad_query = attend_backward(q, grouping.inputs, saved[4], saved[5], grad_outputs[0], gradients);

    kernels::CompressBackwardParams compress;
    compress.common = compress_params(q, k, v, *plan, grouping);
    compress.grad_compact_key = gradients.compact_key;
    compress.grad_compact_value = gradients.compact_value;
    if (!blocks) {
      compress.grad_second_key = gradients.second_key;
      compress.grad_second_value = gradients.second_value;
    }
    compress.grad_bias = gradients.bias;
    compress.grad_key = tokens_ref(grad_key);
    compress.grad_value = tokens_ref(grad_value);
    compress.grad_query = tokens_ref(grad_query);
    kernels::compress_backward(compress, at::cuda::getCurrentCUDAStream());
    return {grad_query, grad_key, grad_value, at::Tensor()};
  }
};

}  // namespace

std::string kernel_attention_obstacle(const at::Tensor& q, const at::Tensor& k) {
  if (!q.is_cuda()) return "the attention kernels run on a GPU, and this model is on the CPU";
  if (q.scalar_type() != at::kBFloat16) {
    return str("the attention kernels compute in bf16, not ", c10::toString(q.scalar_type()));
  }
  const c10::cuda::CUDAGuard guard(q.device());
  return kernels::supports(shape_of(q, k));
}

std::string kernel_grouped_obstacle(const at::Tensor& q, const at::Tensor& k,
                                    const kernels::GroupingSettings& settings) {
  if (settings.rule == kernels::GroupingRule::block && settings.block_size > kernels::kMaxScoredBlock) {
    return str("the kernels take blocks of up to ", kernels::kMaxScoredBlock, " tokens, not attention.block_size ",
               settings.block_size);
  }
  return kernel_attention_obstacle(q, k);
}

at::Tensor kernel_full_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                 const std::vector<std::vector<int64_t>>& starts, double scale) {
  const int64_t length = q.size(1), kv_heads = k.size(2);
  const bool whole_rows = std::all_of(starts.begin(), starts.end(), [](const auto& row) { return row.size() == 1; });
  at::Tensor begin = at::empty({0}, q.options().dtype(at::kInt));  // empty: every row starts at 0
  if (!whole_rows) {
    const at::Tensor host = at::empty({q.size(0), 1, length}, at::TensorOptions().dtype(at::kInt).pinned_memory(true));
    auto* values = host.data_ptr<int32_t>();
    for (size_t row = 0; row < starts.size(); ++row) {
      for (size_t i = 0; i < starts[row].size(); ++i) {
        const int64_t end = i + 1 < starts[row].size() ? starts[row][i + 1] : length;
        std::fill(values + static_cast<int64_t>(row) * length + starts[row][i],
                  values + static_cast<int64_t>(row) * length + end, static_cast<int32_t>(starts[row][i]));
      }
    }
    begin = host.to(q.device(), /*non_blocking=*/true).expand({q.size(0), kv_heads, length}).contiguous();
  }
  return FullFunction::apply(q, k, v, begin, scale);
}

at::Tensor kernel_grouped_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const GroupedAttention& attention) {
  return GroupedFunction::apply(q, k, v, make_plan(q, k, attention));
}

}  // namespace dga

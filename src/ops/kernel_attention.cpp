#include "ops/kernel_attention.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/autograd.h>

#include <algorithm>

#include "kernels/attention/attention.h"
#include "kernels/grouping/score.h"
#include "ops/kernel_grouping.h"
#include "ops/kernel_tensors.h"
#include "util/error.h"

namespace dga {
namespace {

using kernels::TensorRef;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

struct ForwardResult {
  at::Tensor output, log_sum_exp;
};

ForwardResult attend(const at::Tensor& q, const kernels::AttentionInputs& inputs) {
  ForwardResult result{at::empty(q.sizes(), q.options()),
                       at::empty({q.size(0), q.size(2), q.size(1)}, q.options().dtype(at::kFloat))};
  const at::Tensor counter = at::empty({1}, q.options().dtype(at::kInt));
  kernels::forward({inputs, tokens_ref(result.output), result.log_sum_exp.data_ptr<float>(), counter.data_ptr<int>()},
                   at::cuda::getCurrentCUDAStream());
  return result;
}

/// The remembered result, or attends and remembers. A remembered tensor shares memory with the result, not its history.
ForwardResult attend_once(const at::Tensor& q, const kernels::AttentionInputs& inputs, AttentionMemory* memory) {
  if (memory != nullptr && memory->output.defined()) return {memory->output.detach(), memory->log_sum_exp};
  const ForwardResult result = attend(q, inputs);
  if (memory != nullptr && memory->keep_output) {
    memory->output = result.output.detach();
    memory->log_sum_exp = result.log_sum_exp;
  }
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

// Attention to tokens as they are. Full: the compact list is K and V, the second is empty. With a window: the compact
// list is the first tokens (all tokens where rows hold several sequences), the second K and V.
struct TokenLists {
  at::Tensor bounds;  // int32 [4, B, G, L]
  kernels::AttentionInputs inputs;

  bool has_window() const { return inputs.shape.second_length > 0; }
};

// `begin`: int32 [B, 1, L], where each token's sequence starts; empty where every row is one sequence.
TokenLists token_lists(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& begin,
                       const TokenRanges& ranges) {
  const int64_t batch = q.size(0), length = q.size(1), kv_heads = k.size(2);
  const bool whole_rows = begin.numel() == 0;
  const at::Tensor end = at::arange(1, length + 1, q.options().dtype(at::kInt)).view({1, 1, length});
  const at::Tensor start = whole_rows ? at::zeros_like(end) : begin;
  const at::Tensor none = at::zeros_like(end);
  TokenLists lists;
  lists.inputs.shape = shape_of(q, k);
  lists.inputs.shape.compact_length = length;
  std::vector<at::Tensor> bounds = {start, end, none, none};
  if (ranges.window > 0) {
    const at::Tensor window = at::maximum(start, end - std::min(ranges.window, length));
    bounds = {start, at::minimum(start + std::min(ranges.sinks, length), window), window, end};
    if (whole_rows) lists.inputs.shape.compact_length = std::min(ranges.sinks, length);
    lists.inputs.shape.second_length = length;
    lists.inputs.shape.second_span = ranges.window;
  }
  for (at::Tensor& bound : bounds) bound = bound.expand({batch, kv_heads, length});
  lists.bounds = at::stack(bounds);
  lists.inputs.query = tokens_ref(q);
  lists.inputs.compact_key = lists.inputs.second_key = tokens_ref(k);
  lists.inputs.compact_value = lists.inputs.second_value = tokens_ref(v);
  const auto part = [&](int64_t i) { return lists.bounds[i].data_ptr<int32_t>(); };
  lists.inputs.bounds = {whole_rows ? nullptr : part(0), part(1), part(2), part(3)};
  lists.inputs.scale = static_cast<float>(ranges.scale);
  return lists;
}

class TokenFunction : public torch::autograd::Function<TokenFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& query, const at::Tensor& key,
                            const at::Tensor& value, const at::Tensor& begin, const TokenRanges& ranges,
                            AttentionMemory* memory) {
    const c10::cuda::CUDAGuard guard(query.device());
    const at::Tensor q = loadable(query), k = loadable(key), v = loadable(value);
    const ForwardResult result = attend_once(q, token_lists(q, k, v, begin, ranges).inputs, memory);
    context->saved_data["scale"] = ranges.scale;
    context->saved_data["window"] = ranges.window;
    context->saved_data["sinks"] = ranges.sinks;
    context->save_for_backward({q, k, v, begin, result.output, result.log_sum_exp});
    return result.output;
  }

  static tensor_list backward(AutogradContext* context, tensor_list grad_outputs) {
    const tensor_list saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const c10::cuda::CUDAGuard guard(q.device());
    const TokenRanges ranges{context->saved_data["scale"].toDouble(), context->saved_data["window"].toInt(),
                             context->saved_data["sinks"].toInt()};
    const TokenLists lists = token_lists(q, k, v, saved[3], ranges);
    const at::Tensor grad_key = at::empty(k.sizes(), k.options()), grad_value = at::empty(v.sizes(), v.options());
    ListGradients gradients{tokens_ref(grad_key), tokens_ref(grad_value), {}, {}, nullptr};
    at::Tensor first_key, first_value;
    if (lists.has_window()) {
      const int64_t first = lists.inputs.shape.compact_length;
      first_key = at::empty({k.size(0), first, k.size(2), k.size(3)}, k.options());
      first_value = at::empty_like(first_key);
      gradients = {tokens_ref(first_key), tokens_ref(first_value), tokens_ref(grad_key), tokens_ref(grad_value),
                   nullptr};
    }
    const at::Tensor grad_query = attend_backward(q, lists.inputs, saved[4], saved[5], grad_outputs[0], gradients);
    if (lists.has_window()) {
      grad_key.narrow(1, 0, first_key.size(1)).add_(first_key);
      grad_value.narrow(1, 0, first_key.size(1)).add_(first_value);
    }
    return {grad_query, grad_key, grad_value, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

class GroupedFunction : public torch::autograd::Function<GroupedFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& query, const at::Tensor& key,
                            const at::Tensor& value, const c10::intrusive_ptr<GroupingPlan>& plan,
                            AttentionMemory* memory) {
    const c10::cuda::CUDAGuard guard(query.device());
    const at::Tensor q = loadable(query), k = loadable(key), v = loadable(value);
    const bool chosen = memory != nullptr && memory->focal_bits.defined();
    const GroupedLists lists =
        make_grouped_lists(q, k, v, *plan, chosen ? memory->focal_bits : given_bits(q, k, *plan));
    if (memory != nullptr) memory->focal_bits = lists.bits;
    const ForwardResult result = attend_once(q, attention_inputs(q, k, v, *plan, lists), memory);
    plan->mark("attention");
    context->saved_data["plan"] = c10::IValue::make_capsule(plan);
    tensor_list saved = {q, k, v, result.output, result.log_sum_exp};
    if (plan->attention.keep_lists) {
      for (const at::Tensor& tensor : lists.tensors()) saved.push_back(tensor);
    } else {
      saved.push_back(lists.bits);
    }
    context->save_for_backward(saved);
    return result.output;
  }

  static tensor_list backward(AutogradContext* context, tensor_list grad_outputs) {
    const tensor_list saved = context->get_saved_variables();
    const auto plan = c10::static_intrusive_pointer_cast<GroupingPlan>(context->saved_data["plan"].toCapsule());
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const c10::cuda::CUDAGuard guard(q.device());
    const GroupedLists lists =
        plan->attention.keep_lists ? GroupedLists::from(saved, 5) : make_grouped_lists(q, k, v, *plan, saved[5]);

    const at::Tensor grad_key = at::empty(k.sizes(), k.options()), grad_value = at::empty(v.sizes(), v.options());
    const at::Tensor compact_key = at::empty_like(lists.compact_key), compact_value = at::empty_like(compact_key);
    at::Tensor second_key, second_value, bias;
    ListGradients gradients{list_ref(compact_key), list_ref(compact_value), {}, {}, nullptr};
    if (plan->second_list_is_tokens()) {
      gradients.second_key = tokens_ref(grad_key);
      gradients.second_value = tokens_ref(grad_value);
    } else {
      second_key = at::empty_like(lists.second_key);
      second_value = at::empty_like(lists.second_value);
      gradients.second_key = list_ref(second_key);
      gradients.second_value = list_ref(second_value);
    }
    if (lists.bias.defined()) {
      bias = at::empty_like(lists.bias);
      gradients.bias = bias.data_ptr<float>();
    }
    const at::Tensor grad_query =
        attend_backward(q, attention_inputs(q, k, v, *plan, lists), saved[3], saved[4], grad_outputs[0], gradients);
    plan->mark("attention_backward");

    kernels::CompressBackwardParams compress;
    compress.common = compress_params(q, k, v, *plan, lists);
    compress.grad_compact_key = gradients.compact_key;
    compress.grad_compact_value = gradients.compact_value;
    if (second_key.defined()) {
      compress.grad_second_key = gradients.second_key;
      compress.grad_second_value = gradients.second_value;
    }
    compress.grad_bias = gradients.bias;
    compress.grad_key = tokens_ref(grad_key);
    compress.grad_value = tokens_ref(grad_value);
    compress.grad_query = tokens_ref(grad_query);
    kernels::compress_backward(compress, at::cuda::getCurrentCUDAStream());
    plan->mark("compress_backward");
    return {grad_query, grad_key, grad_value, at::Tensor(), at::Tensor()};
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

at::Tensor kernel_token_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const std::vector<std::vector<int64_t>>& starts, const TokenRanges& ranges,
                                  AttentionMemory* memory) {
  const int64_t length = q.size(1);
  const bool whole_rows = std::all_of(starts.begin(), starts.end(), [](const auto& row) { return row.size() == 1; });
  at::Tensor begin = at::empty({0}, q.options().dtype(at::kInt));  // empty: every row starts at 0
  if (memory != nullptr && memory->tables.defined()) {
    begin = memory->tables;
  } else if (!whole_rows) {
    const at::Tensor host = at::empty({q.size(0), 1, length}, at::TensorOptions().dtype(at::kInt).pinned_memory(true));
    auto* values = host.data_ptr<int32_t>();
    for (size_t row = 0; row < starts.size(); ++row) {
      for (size_t i = 0; i < starts[row].size(); ++i) {
        const int64_t end = i + 1 < starts[row].size() ? starts[row][i + 1] : length;
        std::fill(values + static_cast<int64_t>(row) * length + starts[row][i],
                  values + static_cast<int64_t>(row) * length + end, static_cast<int32_t>(starts[row][i]));
      }
    }
    begin = host.to(q.device(), /*non_blocking=*/true);
  }
  if (memory != nullptr) memory->tables = begin;
  return TokenFunction::apply(q, k, v, begin, ranges, memory);
}

at::Tensor kernel_grouped_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const GroupedAttention& attention, AttentionMemory* memory) {
  const auto plan = make_grouping_plan(q, k, attention, memory == nullptr ? at::Tensor() : memory->tables);
  if (memory != nullptr) memory->tables = plan->device;
  return GroupedFunction::apply(q, k, v, plan, memory);
}

double kernel_visible_pairs(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const GroupedAttention& attention) {
  const at::NoGradGuard no_grad;
  const c10::cuda::CUDAGuard guard(query.device());
  const at::Tensor q = loadable(query), k = loadable(key), v = loadable(value);
  const auto plan = make_grouping_plan(q, k, attention);
  const at::Tensor bounds = make_grouped_lists(q, k, v, *plan, given_bits(q, k, *plan)).bounds.to(at::kDouble);
  const at::Tensor pairs = bounds[1] - bounds[0] + bounds[3] - bounds[2];  // [B, G, L]
  return pairs.sum().item<double>() * static_cast<double>(q.size(2) / k.size(2));
}

}  // namespace dga

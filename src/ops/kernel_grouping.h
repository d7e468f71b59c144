#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>
#include <torch/custom_class.h>

#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/grouping/grouping.h"
#include "ops/kernel_attention.h"

// From tokens to the lists that attention reads, by the kernels of kernels/grouping. Legend as in kernel_attention.h;
// C entries in the compact list, N in the second.
namespace dga {

/// The host's part of a grouped call, in one copy on the device: segments, sampled queries, given focal bits.
struct GroupingPlan : torch::CustomClassHolder {
  kernels::SegmentPlan segments;
  GroupedAttention attention;
  at::Tensor device;  // bytes
  int64_t sample_count = 0, samples_offset = 0, begins_offset = 0, bits_offset = 0;

  bool second_list_is_tokens() const { return attention.grouping.rule == kernels::GroupingRule::block; }
  /// Tells the observer of the call that a stage has been enqueued.
  void mark(const char* stage) const {
    if (attention.stage_observer) attention.stage_observer(stage);
  }
};

/// `device`: that of an earlier plan for the same call, if there was one.
c10::intrusive_ptr<GroupingPlan> make_grouping_plan(const at::Tensor& q, const at::Tensor& k,
                                                    const GroupedAttention& attention, const at::Tensor& device = {});

/// Focal set and lists of one call.
struct GroupedLists {
  at::Tensor bits;                        // int32 [B, G, ceil(L / 32)]: the focal set
  at::Tensor word_ranks;                  // int32, as bits
  at::Tensor token_order;                 // int32 [B, G, L]
  at::Tensor bounds;                      // int32 [4, B, G, L]
  at::Tensor compact_key, compact_value;  // [B, G, C, D]
  at::Tensor second_key, second_value;    // [B, G, N, D]; undefined where the second list is the tokens
  at::Tensor bias;                        // fp32 [B, G, >= C]; undefined without

  /// All of them, for autograd to save, and back.
  std::vector<at::Tensor> tensors() const;
  static GroupedLists from(const std::vector<at::Tensor>& tensors, size_t first);
};

/// The focal bits that the call itself gives; undefined where they are to be selected.
at::Tensor given_bits(const at::Tensor& q, const at::Tensor& k, const GroupingPlan& plan);

/// Orders and pools; selects first unless `bits` are known.
GroupedLists make_grouped_lists(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const GroupingPlan& plan,
                                const at::Tensor& bits);

/// What the attention kernels read.
kernels::AttentionInputs attention_inputs(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                          const GroupingPlan& plan, const GroupedLists& lists);

/// What both directions of the compression read.
kernels::CompressParams compress_params(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                        const GroupingPlan& plan, const GroupedLists& lists);

}  // namespace dga

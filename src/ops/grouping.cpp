#include "ops/grouping.h"

#include <ATen/ATen.h>
#include <torch/autograd.h>

#include <cmath>
#include <limits>

#include "ops/compute_type.h"
#include "util/error.h"

namespace dga {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct TakeRows : torch::autograd::Function<TakeRows> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& indices) {
    context->save_for_backward({indices});
    context->saved_data["sizes"] = x.sizes();
    return x.index_select(0, indices);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const at::Tensor indices = context->get_saved_variables()[0];
    const std::vector<int64_t> sizes = context->saved_data["sizes"].toIntVector();
    at::Tensor dx = indices.size(0) == sizes[0] ? at::empty(sizes, gradients[0].options())
                                                : at::zeros(sizes, gradients[0].options());
    return {dx.index_copy_(0, indices, gradients[0]), at::Tensor()};
  }
};

}  // namespace

FocalSplit split_by_importance(const at::Tensor& importance, int64_t count) {
  DGA_CHECK(importance.dim() == 2 && count >= 0 && count <= importance.size(1), "split: ", count,
            " focal tokens of importance ", importance.sizes());
  const at::NoGradGuard no_grad;
  const at::Tensor order = std::get<1>(at::sort(importance.detach(), /*stable=*/true, /*dim=*/1, /*descending=*/true));
  return {std::get<0>(order.slice(1, 0, count).sort(1)), std::get<0>(order.slice(1, count).sort(1))};
}

FocalSplit split_at(const at::Tensor& focal, int64_t length) {
  DGA_CHECK(focal.dim() == 2 && focal.size(1) <= length, "split: focal positions ", focal.sizes(), " of ", length);
  at::Tensor is_focal = at::zeros({focal.size(0), length}, focal.options());
  is_focal.scatter_(1, focal, 1);
  // A stable sort of the marks leaves the others in front, in order.
  const at::Tensor order = std::get<1>(at::sort(is_focal, /*stable=*/true, /*dim=*/1, /*descending=*/false));
  return {focal, order.slice(1, 0, length - focal.size(1)).contiguous()};
}

at::Tensor take_rows(const at::Tensor& x, const at::Tensor& indices) {
  std::vector<int64_t> sizes = indices.sizes().vec();
  const at::IntArrayRef row = x.sizes().slice(1);
  sizes.insert(sizes.end(), row.begin(), row.end());
  return TakeRows::apply(x, indices.reshape({-1})).view(sizes);
}

PooledGroups pool_groups(const at::Tensor& query, const at::Tensor& keys, const at::Tensor& values, PoolWeights weights,
                         double scale) {
  DGA_CHECK(keys.dim() == 4 && keys.size(2) > 0 && keys.sizes() == values.sizes(), "pool: keys ", keys.sizes(),
            " and values ", values.sizes());
  const int64_t members = keys.size(2);
  const at::ScalarType type = compute_type(keys.scalar_type());
  if (weights == PoolWeights::mean) {
    return {keys.to(type).mean(2).to(keys.scalar_type()), values.to(type).mean(2).to(values.scalar_type()),
            at::full({keys.size(0), keys.size(1)}, std::log(static_cast<double>(members)), keys.options().dtype(type))};
  }
  DGA_CHECK(query.dim() == 3 && query.size(0) == keys.size(0) && query.size(1) == keys.size(1) &&
                query.size(2) == keys.size(3),
            "pool: query ", query.sizes(), " does not fit keys ", keys.sizes());
  const at::Tensor wide_keys = keys.to(type), wide_values = values.to(type);
  const at::Tensor log_weights =
      at::log_softmax(wide_keys.mul(query.to(type).unsqueeze(2)).sum(3).mul(scale), 2);  // [R, M, m]
  const at::Tensor p = log_weights.exp();
  const at::Tensor column = p.unsqueeze(3);
  return {wide_keys.mul(column).sum(2).to(keys.scalar_type()), wide_values.mul(column).sum(2).to(values.scalar_type()),
          p.mul(log_weights).sum(2).neg()};
}

CompactOrder compact_order(const at::Tensor& focal_times, const at::Tensor& group_times) {
  const auto [times, order] =
      at::sort(at::cat({focal_times, group_times}, 1), /*stable=*/true, /*dim=*/1, /*descending=*/false);
  return {order, times};
}

}  // namespace dga

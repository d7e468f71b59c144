#include "model/after_attention.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "ops/rms_norm.h"
#include "ops/swiglu.h"
#include "ops/weight_gradient.h"

namespace dga {
namespace {

/// Tokens [first, first + count) of T.
struct Tile {
  int64_t first = 0, count = 0;
  at::Tensor of(const at::Tensor& rows) const { return rows.defined() ? rows.narrow(0, first, count) : rows; }
};

std::vector<Tile> tiles(int64_t tokens, int64_t tile_tokens) {
  if (tile_tokens == 0 || tile_tokens >= tokens) return {{0, tokens}};
  std::vector<Tile> all;
  for (int64_t first = 0; first < tokens; first += tile_tokens) {
    all.push_back({first, std::min(tile_tokens, tokens - first)});
  }
  return all;
}

at::Tensor project(const at::Tensor& x, const at::Tensor& weight) { return at::mm(x, weight.t()); }

/// The same, written to `out`.
at::Tensor project(const at::Tensor& x, const at::Tensor& weight, at::Tensor out) {
  return at::mm_out(out, x, weight.t());
}

at::Tensor as_rows(const at::Tensor& x, int64_t width) { return x.reshape({-1, width}); }

/// One tensor of all tiles' rows [T, width], made when the first of them is.
class Rows {
 public:
  explicit Rows(int64_t tokens) : tokens_(tokens) {}
  /// The place of a tile's rows.
  at::Tensor of(const Tile& tile, int64_t width, const at::TensorOptions& options) {
    if (!all_.defined()) all_ = at::empty({tokens_, width}, options);
    return tile.of(all_);
  }
  const at::Tensor& all() const { return all_; }

 private:
  int64_t tokens_;
  at::Tensor all_;
};

/// Sums of the weights' gradients over the tiles.
struct GradientSums {
  WeightGradient o_proj, gate_proj, up_proj, down_proj;
  at::Tensor norm;  // [hidden] fp32

  GradientSums(const BlockWeights& weights, int64_t tile_count)
      : o_proj(tile_count, gradient_sink(weights.o_proj)),
        gate_proj(tile_count, gradient_sink(weights.gate_proj)),
        up_proj(tile_count, gradient_sink(weights.up_proj)),
        down_proj(tile_count, gradient_sink(weights.down_proj)) {}

  void write(at::ScalarType type, BlockWeights& gradients) {
    const auto rounded = [type](const at::Tensor& sum) { return sum.defined() ? sum.to(type) : sum; };
    gradients.o_proj = rounded(o_proj.finish());
    gradients.post_attention_norm = rounded(norm);
    gradients.gate_proj = rounded(gate_proj.finish());
    gradients.up_proj = rounded(up_proj.finish());
    gradients.down_proj = rounded(down_proj.finish());
  }
};

/// The inputs, outputs' gradients and kept rows of one tile.
struct TileRows {
  at::Tensor x, attended, grad_output;
  AfterAttentionKept kept;
};

/// Where a tile's gradients go.
struct TileGradients {
  Rows &x, &attended;
};

void tile_backward(const Tile& tile, TileRows rows, const BlockWeights& w, const BlockContext& c,
                   const WantedWeights& wanted, GradientSums& sums, const TileGradients& gradients) {
  at::Tensor normed;
  if (rows.kept.sum.defined()) {
    normed = normed_again(rows.kept.sum, rows.kept.inverse_rms, w.post_attention_norm, c.rms_norm_eps);
  } else {
    AddedNorm norm = add_rms_norm(rows.x, project(rows.attended, w.o_proj), w.post_attention_norm, c.rms_norm_eps);
    normed = norm.normed;
    rows.kept.sum = norm.sum;
    rows.kept.inverse_rms = norm.inverse_rms;
  }
  const bool kept = rows.kept.gate.defined();
  SwigluGradients mlp =
      swiglu_backward(at::mm(rows.grad_output, w.down_proj), kept ? rows.kept.gate : project(normed, w.gate_proj),
                      kept ? rows.kept.up : project(normed, w.up_proj), kept ? Operands::kept : Operands::consumed);
  if (wanted.down_proj) sums.down_proj.add(rows.grad_output, mlp.product);
  mlp.product.reset();
  if (wanted.gate_proj) sums.gate_proj.add(mlp.gate, normed);
  if (wanted.up_proj) sums.up_proj.add(mlp.up, normed);
  normed.reset();
  NormBackward norm;
  norm.grad_normed = at::mm(mlp.gate, w.gate_proj).addmm_(mlp.up, w.up_proj);
  mlp = {};
  norm.grad_sum = rows.grad_output;
  norm.sum = rows.kept.sum;
  norm.inverse_rms = rows.kept.inverse_rms;
  norm.wants_weight = wanted.post_attention_norm;
  norm.out = gradients.x.of(tile, rows.x.size(1), rows.x.options());
  const NormGradients grads = rms_norm_backward(norm, w.post_attention_norm);
  if (norm.wants_weight) sums.norm = sums.norm.defined() ? sums.norm.add_(grads.weight) : grads.weight;
  if (wanted.o_proj) sums.o_proj.add(grads.sum, rows.attended);
  at::Tensor attended = gradients.attended.of(tile, rows.attended.size(1), rows.attended.options());
  at::mm_out(attended, grads.sum, w.o_proj);
}

}  // namespace

AfterAttention after_attention(const at::Tensor& x, const at::Tensor& attended, const BlockWeights& w,
                               const BlockContext& c, Recompute recompute) {
  const at::Tensor x_rows = as_rows(x, x.size(2)), attended_rows = as_rows(attended, c.heads * c.head_dim);
  const std::vector<Tile> all = tiles(x_rows.size(0), c.mlp_tile_tokens);
  const auto options = x.options();
  const int64_t hidden = x.size(2), intermediate = w.gate_proj.size(0);
  const Rows empty(x_rows.size(0));  // no memory yet
  Rows output = empty, sum = empty, gate = empty, up = empty;
  at::Tensor inverse_rms;  // [T]
  const bool keeps_sum = recompute != Recompute::block, keeps_mlp = recompute == Recompute::none;
  for (const Tile& tile : all) {
    Rows& sums = keeps_sum ? sum : output;  // where nothing else needs the sum, the MLP's output is added to it
    const AddedNorm norm = add_rms_norm(tile.of(x_rows), project(tile.of(attended_rows), w.o_proj),
                                        w.post_attention_norm, c.rms_norm_eps, sums.of(tile, hidden, options));
    const auto before_swiglu = [&](const at::Tensor& weight, Rows& kept) {
      return keeps_mlp ? project(norm.normed, weight, kept.of(tile, intermediate, options))
                       : project(norm.normed, weight);
    };
    const at::Tensor g = before_swiglu(w.gate_proj, gate), u = before_swiglu(w.up_proj, up);
    const at::Tensor mlp = swiglu(g, u);
    at::Tensor out = output.of(tile, hidden, options);
    if (!keeps_sum) {
      out.addmm_(mlp, w.down_proj.t());
      continue;
    }
    at::addmm_out(out, norm.sum, mlp, w.down_proj.t());
    if (!inverse_rms.defined()) inverse_rms = at::empty({x_rows.size(0)}, norm.inverse_rms.options());
    tile.of(inverse_rms).copy_(norm.inverse_rms);
  }
  return {output.all().view(x.sizes()), {sum.all(), inverse_rms, gate.all(), up.all()}};
}

AfterAttentionGradients after_attention_backward(const AfterAttentionBackward& given, const BlockWeights& w,
                                                 const BlockContext& c, const WantedWeights& wanted,
                                                 BlockWeights& gradients) {
  const int64_t hidden = given.x.size(2);
  const at::Tensor x = as_rows(given.x, hidden), attended = as_rows(given.attended, c.heads * c.head_dim);
  const at::Tensor grad_output = as_rows(given.grad_output, hidden);
  const std::vector<Tile> all = tiles(x.size(0), c.mlp_tile_tokens);
  GradientSums sums(w, static_cast<int64_t>(all.size()));
  Rows grad_x(x.size(0)), grad_attended(x.size(0));
  for (const Tile& tile : all) {
    const AfterAttentionKept kept{tile.of(given.kept.sum), tile.of(given.kept.inverse_rms), tile.of(given.kept.gate),
                                  tile.of(given.kept.up)};
    tile_backward(tile, {tile.of(x), tile.of(attended), tile.of(grad_output), kept}, w, c, wanted, sums,
                  {grad_x, grad_attended});
  }
  sums.write(w.o_proj.scalar_type(), gradients);
  return {grad_x.all().view(given.x.sizes()), grad_attended.all().view(given.attended.sizes())};
}

}  // namespace dga

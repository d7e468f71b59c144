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

at::Tensor as_rows(const at::Tensor& x, int64_t width) { return x.reshape({-1, width}); }

/// One tensor of all tiles' rows: the tile itself where there is one, else gathered in memory of its own.
class Rows {
 public:
  Rows(int64_t tokens, bool one_tile) : tokens_(tokens), one_tile_(one_tile) {}
  void set(const Tile& tile, const at::Tensor& rows) {
    if (one_tile_) {
      all_ = rows;
      return;
    }
    if (!all_.defined()) {
      std::vector<int64_t> shape = rows.sizes().vec();
      shape[0] = tokens_;
      all_ = at::empty(shape, rows.options());
    }
    tile.of(all_).copy_(rows);
  }
  const at::Tensor& all() const { return all_; }

 private:
  int64_t tokens_;
  bool one_tile_;
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

struct TileGradients {
  at::Tensor sum, attended;
};

TileGradients tile_backward(TileRows rows, const BlockWeights& w, const BlockContext& c, const WantedWeights& wanted,
                            GradientSums& sums) {
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
  const NormGradients grads = rms_norm_backward(norm, w.post_attention_norm);
  if (norm.wants_weight) sums.norm = sums.norm.defined() ? sums.norm.add_(grads.weight) : grads.weight;
  if (wanted.o_proj) sums.o_proj.add(grads.sum, rows.attended);
  return {grads.sum, at::mm(grads.sum, w.o_proj)};
}

}  // namespace

AfterAttention after_attention(const at::Tensor& x, const at::Tensor& attended, const BlockWeights& w,
                               const BlockContext& c, Recompute recompute) {
  const at::Tensor x_rows = as_rows(x, x.size(2)), attended_rows = as_rows(attended, c.heads * c.head_dim);
  const std::vector<Tile> all = tiles(x_rows.size(0), c.mlp_tile_tokens);
  const Rows empty(x_rows.size(0), all.size() == 1);
  Rows output = empty, sum = empty, inverse_rms = empty, gate = empty, up = empty;
  for (const Tile& tile : all) {
    const AddedNorm norm =
        add_rms_norm(tile.of(x_rows), project(tile.of(attended_rows), w.o_proj), w.post_attention_norm, c.rms_norm_eps);
    const at::Tensor g = project(norm.normed, w.gate_proj), u = project(norm.normed, w.up_proj);
    const at::Tensor mlp = swiglu(g, u);
    if (recompute == Recompute::block) {  // nothing else needs the sum
      output.set(tile, at::Tensor(norm.sum).addmm_(mlp, w.down_proj.t()));
      continue;
    }
    output.set(tile, at::addmm(norm.sum, mlp, w.down_proj.t()));
    sum.set(tile, norm.sum);
    inverse_rms.set(tile, norm.inverse_rms);
    if (recompute == Recompute::selective) continue;
    gate.set(tile, g);
    up.set(tile, u);
  }
  return {output.all().view(x.sizes()), {sum.all(), inverse_rms.all(), gate.all(), up.all()}};
}

AfterAttentionGradients after_attention_backward(const AfterAttentionBackward& given, const BlockWeights& w,
                                                 const BlockContext& c, const WantedWeights& wanted,
                                                 BlockWeights& gradients) {
  const int64_t hidden = given.x.size(2);
  const at::Tensor x = as_rows(given.x, hidden), attended = as_rows(given.attended, c.heads * c.head_dim);
  const at::Tensor grad_output = as_rows(given.grad_output, hidden);
  const std::vector<Tile> all = tiles(x.size(0), c.mlp_tile_tokens);
  GradientSums sums(w, static_cast<int64_t>(all.size()));
  Rows grad_x(x.size(0), all.size() == 1), grad_attended(x.size(0), all.size() == 1);
  for (const Tile& tile : all) {
    const AfterAttentionKept kept{tile.of(given.kept.sum), tile.of(given.kept.inverse_rms), tile.of(given.kept.gate),
                                  tile.of(given.kept.up)};
    const TileGradients grads =
        tile_backward({tile.of(x), tile.of(attended), tile.of(grad_output), kept}, w, c, wanted, sums);
    grad_x.set(tile, grads.sum);
    grad_attended.set(tile, grads.attended);
  }
  sums.write(w.o_proj.scalar_type(), gradients);
  return {grad_x.all().view(given.x.sizes()), grad_attended.all().view(given.attended.sizes())};
}

}  // namespace dga

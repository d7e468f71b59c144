#pragma once

#include <ATen/ATen.h>
#include <torch/autograd.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "util/error.h"

/// Inputs and settings shared by the attention tests.
namespace dga::testing {

struct Heads {
  int64_t batch = 1, length = 1, heads = 1, kv_heads = 1, width = 4;
};

/// Random q [B, L, H, D], k, v [B, L, G, D].
inline std::vector<at::Tensor> random_heads(const Heads& s, at::ScalarType type = at::kDouble) {
  const auto options = at::TensorOptions().dtype(at::kDouble);
  // Sharper than unit normals, so that some attention weights are far from uniform.
  return {at::randn({s.batch, s.length, s.heads, s.width}, options).mul(1.5).to(type),
          at::randn({s.batch, s.length, s.kv_heads, s.width}, options).mul(1.5).to(type),
          at::randn({s.batch, s.length, s.kv_heads, s.width}, options).to(type)};
}

using HeadsFunction = std::function<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&)>;

/// Output and the gradients of q, k and v for the weights `dout` of the output.
inline std::vector<at::Tensor> with_gradients(const HeadsFunction& f, const std::vector<at::Tensor>& inputs,
                                              const at::Tensor& dout) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& x : inputs) leaves.push_back(x.detach().clone().set_requires_grad(true));
  std::vector<at::Tensor> result = {f(leaves[0], leaves[1], leaves[2])};
  for (const at::Tensor& x : torch::autograd::grad({result[0]}, leaves, {dout})) result.push_back(x);
  result[0] = result[0].detach();
  return result;
}

inline const char* kTensorNames[] = {"output", "gradient of q", "gradient of k", "gradient of v"};

inline AttentionConfig full_config(AttentionBackend backend) {
  AttentionConfig config;
  config.backend = backend;
  return config;
}

/// Computed by the reference, also on a GPU.
inline AttentionConfig dga_config(Selection selection) {
  AttentionConfig config;
  config.backend = AttentionBackend::reference;
  config.kind = AttentionKind::dga;
  config.selection = selection;
  return config;
}

/// One of the kinds with first tokens and a window.
inline AttentionConfig window_config(AttentionKind kind, int64_t sinks, int64_t window,
                                     SinkPositions positions = SinkPositions::absolute) {
  AttentionConfig config;
  config.kind = kind;
  config.sink_tokens = sinks;
  config.window = window;
  config.sink_positions = positions;
  return config;
}

/// RoPE's inverse frequencies at theta 100 for a head of `width`.
inline at::Tensor test_frequencies(int64_t width) {
  return at::pow(100.0, at::arange(0, width, 2, at::kDouble) / static_cast<double>(-width));
}

inline std::string describe(const AttentionConfig& c) {
  if (c.kind != AttentionKind::dga) {
    return str(config::name_of(c.kind), " sinks ", c.sink_tokens, " window ", c.window, " ",
               config::name_of(c.sink_positions));
  }
  return str(config::name_of(c.selection), " ratio ", c.focal_ratio, " group ", c.group_size, " S ", c.sampled_queries,
             " ", config::name_of(c.query_sampling), " window ", c.local_window, " weights ",
             config::name_of(c.group_weights), " complementary ", c.complementary, " bias ",
             config::name_of(c.group_bias), " block ", c.block_size, " x ", c.local_blocks);
}

}  // namespace dga::testing

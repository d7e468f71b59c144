#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "model/llama.h"

namespace dga {

using Weights = std::map<std::string, at::Tensor>;

inline Weights weights_in_double(const Llama& model) {
  Weights weights;
  for (const NamedParameter& parameter : model.parameters()) {
    weights[parameter.name] = parameter.value.detach().to(at::kDouble).clone();
  }
  return weights;
}

/// LLaMA written from its definition, in double, for one sequence with plain RoPE and full causal attention: the oracle
/// of the tests here. tokens [L] -> hidden states [L, hidden].
inline at::Tensor reference_llama(const Weights& w, const LlamaConfig& c, const at::Tensor& tokens) {
  const int64_t length = tokens.size(0), dim = c.head_dim, half = dim / 2;
  const auto norm = [&](const at::Tensor& x, const std::string& name) {
    return x / (x.square().mean(-1, /*keepdim=*/true) + c.rms_norm_eps).sqrt() * w.at(name);
  };
  const auto rotate = [&](const at::Tensor& x) {  // [L, D]: pairs (i, i + D/2) turned by t * theta^(-2i/D)
    at::Tensor y = at::empty_like(x);
    for (int64_t i = 0; i < half; ++i) {
      const double frequency = std::pow(c.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
      const at::Tensor angle = at::arange(length, at::kDouble) * frequency;
      const at::Tensor a = x.select(1, i), b = x.select(1, i + half);
      y.select(1, i).copy_(a * angle.cos() - b * angle.sin());
      y.select(1, i + half).copy_(b * angle.cos() + a * angle.sin());
    }
    return y;
  };
  const at::Tensor hidden_future = at::ones({length, length}, at::kBool).triu(1);
  at::Tensor x = w.at("model.embed_tokens.weight").index_select(0, tokens);
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const at::Tensor a = norm(x, layer + "input_layernorm.weight");
    const auto project = [&](const char* name) { return a.matmul(w.at(layer + "self_attn." + name + ".weight").t()); };
    const at::Tensor q = project("q_proj"), k = project("k_proj"), v = project("v_proj");
    std::vector<at::Tensor> heads;
    for (int64_t h = 0; h < c.num_attention_heads; ++h) {
      const int64_t g = h / (c.num_attention_heads / c.num_key_value_heads);
      const at::Tensor qh = rotate(q.narrow(1, h * dim, dim)), kg = rotate(k.narrow(1, g * dim, dim));
      const at::Tensor scores = qh.matmul(kg.t()) / std::sqrt(static_cast<double>(dim));
      heads.push_back(at::softmax(scores.masked_fill(hidden_future, -INFINITY), -1).matmul(v.narrow(1, g * dim, dim)));
    }
    x = x + at::cat(heads, 1).matmul(w.at(layer + "self_attn.o_proj.weight").t());
    const at::Tensor m = norm(x, layer + "post_attention_layernorm.weight");
    const at::Tensor gate = m.matmul(w.at(layer + "mlp.gate_proj.weight").t());
    const at::Tensor up = m.matmul(w.at(layer + "mlp.up_proj.weight").t());
    x = x + (gate * at::sigmoid(gate) * up).matmul(w.at(layer + "mlp.down_proj.weight").t());
  }
  return norm(x, "model.norm.weight");
}

/// A small shape with grouped-query attention and an explicit head_dim.
inline LlamaConfig small_config() {
  LlamaConfig config;
  config.vocab_size = 37;
  config.hidden_size = 24;
  config.intermediate_size = 40;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 10;
  config.max_position_embeddings = 64;
  config.initializer_range = 0.3;  // large enough that every part shows in the result
  return config;
}

inline at::Tensor random_tokens(int64_t rows, int64_t length, int64_t vocab_size) {
  return at::randint(vocab_size, {rows, length}, at::kLong);
}

}  // namespace dga

#include "model/llama.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>

#include "model/weights_io.h"
#include "ops/rms_norm.h"
#include "tensor/parallel.h"
#include "util/error.h"
#include "util/random.h"

namespace dga {
namespace {

bool is_norm(const std::string& name) { return name.ends_with("norm.weight"); }

constexpr int64_t kDrawn = 1 << 20;  // numbers at a time
constexpr int64_t kVector = 16;  // normal_() treats as many numbers together, so only multiples of it can be cut off

void draw_weight(const NamedParameter& parameter, uint64_t seed, double deviation) {
  if (is_norm(parameter.name)) {
    parameter.value.fill_(1.0);
    return;
  }
  const uint64_t key = CounterRng({seed, key_of(parameter.name)}).bits(0);
  const at::Generator generator = at::detail::createCPUGenerator(key);
  const at::Tensor weight = parameter.value.view({-1});
  const at::Tensor buffer = at::empty({std::min(weight.numel(), kDrawn + kVector)}, at::kFloat);
  for (int64_t begin = 0, count = 0; begin < weight.numel(); begin += count) {
    const int64_t left = weight.numel() - begin;
    count = left < kDrawn + kVector ? left : kDrawn;
    weight.narrow(0, begin, count).copy_(buffer.narrow(0, 0, count).normal_(0.0, deviation, generator));
  }
}

}  // namespace

Llama::Llama(Empty, const LlamaConfig& config, const AttentionConfig& attention, uint64_t seed, at::ScalarType dtype,
             at::Device device)
    : config_(config), rope_(std::make_unique<RopeTable>(config, device)) {
  for (const ShapeProblem& problem : shape_problems(config)) {
    fail(ExitCode::config, "model.", problem.field, ": ", problem.message);
  }
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  const auto weight = [&](at::IntArrayRef shape) { return at::empty(shape, options).set_requires_grad(true); };
  const int64_t hidden = config.hidden_size, intermediate = config.intermediate_size;
  const int64_t q_width = config.num_attention_heads * config.head_dim;
  const int64_t kv_width = config.num_key_value_heads * config.head_dim;
  embedding_ = weight({config.vocab_size, hidden});
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    LlamaBlock block;
    block.weights = {.input_norm = weight({hidden}),
                     .q_proj = weight({q_width, hidden}),
                     .k_proj = weight({kv_width, hidden}),
                     .v_proj = weight({kv_width, hidden}),
                     .o_proj = weight({hidden, q_width}),
                     .post_attention_norm = weight({hidden}),
                     .gate_proj = weight({intermediate, hidden}),
                     .up_proj = weight({intermediate, hidden}),
                     .down_proj = weight({hidden, intermediate})};
    block.attention = make_attention(attention, i, seed, rope_frequencies(config).inverse);
    blocks_.push_back(std::move(block));
  }
  final_norm_ = weight({hidden});
  if (!config.tie_word_embeddings) lm_head_ = weight({config.vocab_size, hidden});
}

Llama::Llama(const LlamaConfig& config, const AttentionConfig& attention, uint64_t seed, at::ScalarType dtype,
             at::Device device)
    : Llama(Empty{}, config, attention, seed, dtype, device) {
  const std::vector<NamedParameter> all = parameters();
  // A weight depends on no other, so threads change no value: 7 G numbers take 5 s on 16 cores.
  for_each_in_parallel(static_cast<int64_t>(all.size()), [&](int64_t i) {
    const at::NoGradGuard no_grad;  // a mode of the thread
    draw_weight(all[static_cast<size_t>(i)], seed, config.initializer_range);
  });
}

Llama Llama::load(const std::filesystem::path& folder, const LlamaConfig& config, const AttentionConfig& attention,
                  uint64_t seed, at::ScalarType dtype, at::Device device) {
  Llama model(Empty{}, config, attention, seed, dtype, device);
  load_weights(folder, model.parameters(), config.tie_word_embeddings);
  return model;
}

Llama::~Llama() = default;
Llama::Llama(Llama&&) noexcept = default;

BlockContext Llama::block_context(RopeAngles angles) const {
  return {.heads = config_.num_attention_heads,
          .kv_heads = config_.num_key_value_heads,
          .head_dim = config_.head_dim,
          .rms_norm_eps = config_.rms_norm_eps,
          .angles = std::move(angles),
          .layout = nullptr,
          .attention = nullptr};
}

at::Tensor Llama::forward(const at::Tensor& tokens, const SequenceLayout& layout, const MemoryConfig& memory,
                          const BeforeLayer& before_layer) const {
  DGA_CHECK(tokens.dim() == 2 && tokens.scalar_type() == at::kLong, "tokens must be [B, L] int64, got ", tokens.sizes(),
            " ", tokens.scalar_type());
  layout.check(tokens.size(0), tokens.size(1));
  BlockContext context = block_context(rope_->rows(layout, tokens.size(1)));
  context.layout = std::make_shared<const SequenceLayout>(layout);
  at::Tensor x = at::embedding(embedding_, tokens);
  context.mlp_tile_tokens = memory.mlp_tile_tokens;
  const auto store = std::make_shared<HostStore>(memory.offload != Offload::none);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    before_layer(static_cast<int64_t>(i));
    context.attention = blocks_[i].attention.get();
    x = block_forward(x, blocks_[i].weights, context,
                      {memory.of_layer(static_cast<int64_t>(i)), store, memory.keep_attention,
                       memory.offload == Offload::attention_inputs});
  }
  before_layer(static_cast<int64_t>(blocks_.size()));
  return rms_norm(x, final_norm_, config_.rms_norm_eps);
}

ModelCache Llama::make_cache() const {
  ModelCache cache;
  for (const LlamaBlock& block : blocks_) cache.layers.push_back(block.attention->make_cache());
  return cache;
}

at::Tensor Llama::decode(const at::Tensor& tokens, ModelCache& cache) const {
  DGA_CHECK(tokens.dim() == 2 && tokens.size(0) == 1 && tokens.size(1) >= 1, "decode takes tokens [1, T], got ",
            tokens.sizes());
  DGA_CHECK(cache.layers.size() == blocks_.size(), "the cache is of another model");
  const at::NoGradGuard no_grad;
  const BlockContext context = block_context(rope_->range(cache.length, tokens.size(1)));
  at::Tensor x = at::embedding(embedding_, tokens);
  for (size_t i = 0; i < blocks_.size(); ++i) x = block_decode(x, blocks_[i].weights, context, *cache.layers[i]);
  cache.length += tokens.size(1);
  return rms_norm(x, final_norm_, config_.rms_norm_eps);
}

std::vector<NamedParameter> Llama::parameters() const {
  std::vector<NamedParameter> all = {{"model.embed_tokens.weight", embedding_}};
  for (size_t i = 0; i < blocks_.size(); ++i) {
    for (const BlockWeight& weight : kBlockWeights) {
      all.push_back({str("model.layers.", i, ".", weight.name), blocks_[i].weights.*weight.member});
    }
  }
  all.push_back({"model.norm.weight", final_norm_});
  if (!config_.tie_word_embeddings) all.push_back({"lm_head.weight", lm_head_});
  return all;
}

bool Llama::looks_ahead() const {
  return std::any_of(blocks_.begin(), blocks_.end(), [](const LlamaBlock& b) { return b.attention->looks_ahead(); });
}

double Llama::visible_pairs_per_token(int64_t length) const {
  double pairs = 0;
  for (const LlamaBlock& block : blocks_) pairs += block.attention->visible_pairs(length);
  return pairs / static_cast<double>(length);
}

}  // namespace dga

#include "train/prediction.h"

#include <algorithm>
#include <array>

#include "loss/config.h"
#include "optim/streamed_update.h"
#include "util/error.h"

namespace dga {
namespace {

constexpr int64_t kHalf = 2, kSingle = 4;  // bytes of bf16 and fp32

/// The sizes that everything is counted from.
struct Sizes {
  int64_t tokens, length, rows;  // of a micro-batch
  int64_t hidden, intermediate, vocabulary, layers, heads, head_dim;
  int64_t query, key;  // width of the queries and of the keys of a token
  int64_t tile;        // tokens of a tile of the MLP
  int64_t micro_batches;
  int64_t layer_weights;            // matrices alone
  int64_t after_attention_weights;  // o, gate, up and down projection
};

Sizes sizes_of(const RunConfig& config, const LlamaConfig& m, int64_t gpus) {
  Sizes s{};
  s.length = config.data.context_length;
  s.rows = config.train.micro_batch_size;
  s.tokens = s.rows * s.length;
  s.hidden = m.hidden_size;
  s.intermediate = m.intermediate_size;
  s.vocabulary = m.vocab_size;
  s.layers = m.num_hidden_layers;
  s.heads = m.num_attention_heads;
  s.head_dim = m.head_dim;
  s.query = m.num_attention_heads * m.head_dim;
  s.key = m.num_key_value_heads * m.head_dim;
  const int64_t tile = config.train.memory.mlp_tile_tokens;
  s.tile = tile == 0 ? s.tokens : std::min(tile, s.tokens);
  s.micro_batches = config.train.global_batch_size / (config.train.micro_batch_size * gpus);
  s.after_attention_weights = s.hidden * s.query + 3 * s.hidden * s.intermediate;
  s.layer_weights = s.hidden * (s.query + 2 * s.key) + s.after_attention_weights;
  return s;
}

int64_t moment_bytes(MomentsKind kind) {
  switch (kind) {
    case MomentsKind::fp32:
      return 8;
    case MomentsKind::bf16:
      return 4;
    case MomentsKind::int8:
      return 2;
  }
  fail(ExitCode::failure, "unknown kind of moments");
}

/// Bytes of a gradient number of one GPU: sums over micro-batches are fp32.
int64_t gradient_bytes(const Sizes& s) { return s.micro_batches > 1 ? kSingle : kHalf; }

int64_t rows_of(const Sizes& s, int64_t width) { return s.tokens * width * kHalf; }

/// Rows of the compact and the second list of a micro-batch; under the causal rule the second is the tokens themselves.
int64_t list_rows(const Sizes& s, const AttentionConfig& a) {
  const int64_t focal = focal_count(a.selection == Selection::none ? 0.0 : a.focal_ratio, s.length);
  const int64_t others = s.length - focal, groups = others / a.group_size;
  return s.rows * (focal + groups + (a.selection == Selection::causal ? 0 : others));
}

/// Keys and values in the lists of a grouped layer.
int64_t list_bytes(const Sizes& s, const AttentionConfig& a) { return 2 * kHalf * s.key * list_rows(s, a); }

/// Order and bounds of a grouped layer, int32 each.
int64_t bounds_bytes(const Sizes& s) { return s.tokens * (s.key / s.head_dim) * 5 * kSingle; }

/// A layer of the config's model.
struct Layer {
  Recompute plan;
  AttentionKind kind;
  bool grouped() const { return kind == AttentionKind::dga; }
};

Layer layer_of(const RunConfig& config, int64_t index) {
  return {config.train.memory.of_layer(index), kind_of_layer(config.attention, index)};
}

/// What attention keeps for its backward pass: queries, keys, values, output, log-sum-exp, and perhaps the lists.
int64_t attention_kept(const RunConfig& config, const Sizes& s, const Layer& layer) {
  const bool lists = layer.grouped() && config.attention.keep_lists;
  return s.tokens * (kHalf * (2 * s.query + 2 * s.key) + kSingle * s.heads) +
         (lists ? list_bytes(s, config.attention) + bounds_bytes(s) : 0);
}

/// Under Recompute::block: attention's output and log-sum-exp, and its inputs, where they are kept.
int64_t attention_kept_by_block(const MemoryConfig& memory, const Sizes& s) {
  return (memory.keep_attention ? rows_of(s, s.query) + s.tokens * kSingle * s.heads : 0) +
         (memory.offload == Offload::attention_inputs ? rows_of(s, s.query + 2 * s.key) : 0);
}

/// Kept beside the layer's input; its output is the next layer's input.
int64_t layer_kept(const RunConfig& config, const Sizes& s, const Layer& layer) {
  const MemoryConfig& memory = config.train.memory;
  if (layer.plan == Recompute::block) {
    const int64_t norm = memory.offload == Offload::attention_inputs ? s.tokens * kSingle : 0;
    return attention_kept_by_block(memory, s) + norm;
  }
  const int64_t selective = rows_of(s, s.hidden) + attention_kept(config, s, layer) + 2 * kSingle * s.tokens;
  return layer.plan == Recompute::selective ? selective : selective + 2 * rows_of(s, s.intermediate);
}

/// Transient bytes of a layer's backward pass at its worst point, beside what all layers keep. Weights' gradients go
/// to the flat gradient as they are made; only their sums over tiles are beside it.
int64_t layer_working(const RunConfig& config, const Sizes& s, const Layer& layer) {
  const int64_t tile_rows = s.tile * kHalf;
  const bool again = layer.plan == Recompute::block;
  // The gradient of the layer's output, and of its input and of attention's output as they are made.
  const int64_t gradients = rows_of(s, 2 * s.hidden + s.query);
  // Products of a tile: the norm's output, gate and up again where they are not kept, and three gradients.
  const int64_t mlp = tile_rows * (2 * s.hidden + (layer.plan == Recompute::none ? 4 : 3) * s.intermediate) +
                      (s.tile < s.tokens ? s.after_attention_weights * kSingle : 0);
  // The gradients of queries, keys and values with the fp32 sum of the first; of lists the gradients, and the lists
  // themselves where they are made again.
  const int64_t lists = layer.grouped() ? list_bytes(s, config.attention) : 0;
  const bool remade = layer.grouped() && !config.attention.keep_lists;
  const int64_t attention = rows_of(s, s.query + 2 * s.key) + s.tokens * (kSingle * s.query + 2 * kSingle * s.heads) +
                            (remade ? 2 : 1) * lists;
  const int64_t recomputed =
      again ? attention_kept(config, s, layer) - attention_kept_by_block(config.train.memory, s) : 0;
  return gradients + recomputed + std::max(mlp, attention);
}

/// Transient bytes of the loss: hidden states and their gradient, a chunk of logits with its gradient, the gradient of
/// the output weight (summed in fp32 over several chunks, then rounded).
int64_t loss_working(const Sizes& s, const LossConfig& loss) {
  const int64_t chunk = std::min(chunk_tokens(loss, s.vocabulary, /*on_gpu=*/true), s.tokens);
  const int64_t weight = s.vocabulary * s.hidden;
  const int64_t states = rows_of(s, 2 * s.hidden);
  const int64_t forward = chunk * s.vocabulary * (kSingle + kHalf) + weight * (chunk < s.tokens ? kSingle : kHalf);
  const int64_t backward = chunk < s.tokens ? weight * (kSingle + kHalf) : weight * kHalf;
  return states + std::max(forward, backward);
}

struct Activations {
  int64_t kept, working, host;
};

/// The worst moment: the loss, or the backward pass of one of the layers, when those behind it are done.
Activations worst_activations(const RunConfig& config, const Sizes& s) {
  const MemoryConfig& memory = config.train.memory;
  const bool offloaded = memory.offload != Offload::none;
  Activations worst{0, 0, 0};
  int64_t kept = 0;
  for (int64_t index = 0; index < s.layers; ++index) {
    const Layer layer = layer_of(config, index);
    const bool away = offloaded && layer.plan == Recompute::block;
    const int64_t saved = layer_kept(config, s, layer) + rows_of(s, s.hidden);
    (away ? worst.host : kept) += saved;
    // On the device: what the layer at work uses, and what the next one will use on its way back.
    const int64_t staged = away ? 2 * saved : 0;
    const int64_t working = staged + layer_working(config, s, layer);
    if (kept + working > worst.kept + worst.working) worst = {kept, working, worst.host};
  }
  const int64_t last = rows_of(s, s.hidden);  // the input of the last norm
  const int64_t loss = loss_working(s, config.train.loss);
  if (kept + last + loss > worst.kept + worst.working) worst = {kept + last, loss, worst.host};
  return worst;
}

bool is_sharded(const RunConfig& config, int64_t gpus) { return gpus > 1 && config.parallel.shard != ShardLevel::none; }

int64_t reduced_bytes(const RunConfig& config) { return config.parallel.reduce == ReduceType::fp32 ? kSingle : kHalf; }

/// Whether bf16 gradients are summed in fp32, which takes no copies of them.
bool widens(const RunConfig& config, const Sizes& s) {
  return config.parallel.shard != ShardLevel::none && reduced_bytes(config) > gradient_bytes(s);
}

/// Gradients of one GPU and its part of their sums. Where they are sharded it has those of a layer, all of which are
/// made before the first is known to be complete, and those of the output weight, whose memory the embedding's get.
int64_t gradient_memory(const RunConfig& config, const Sizes& s, int64_t parameters, int64_t gpus) {
  const int64_t local = gradient_bytes(s), reduced = reduced_bytes(config);
  if (gpus == 1) return parameters * local;
  const int64_t owned = parameters / gpus * std::max(local, reduced);
  const bool widened = widens(config, s);
  const int64_t buckets = widened ? 1 : reduced != local ? 2 : 0;  // for what the other ranks send, or on their way
  const int64_t staging = buckets * (config.parallel.bucket_mib << 20);
  if (config.parallel.shard == ShardLevel::optimizer_gradients) {
    return owned + (s.layer_weights + s.vocabulary * s.hidden) * std::min(local, reduced) + (widened ? staging : 0);
  }
  const bool apart = config.parallel.shard == ShardLevel::optimizer && reduced > local;
  return parameters * local + staging + (apart ? owned : 0);
}

/// Seconds of computation that hide transfers.
struct Hidden {
  double forward;   // one forward pass
  double backward;  // all backward passes of a step
  double update;
};

/// Widening bf16 gradients: within a host the sum of what all ranks sent, between hosts a copy of a rank's own.
double widening_seconds(const RunConfig& config, const Sizes& s, int64_t parameters, const DeviceRates& rates,
                        int64_t gpus) {
  if (!widens(config, s)) return 0;
  const int64_t numbers = is_one_host(gpus) ? parameters / gpus : parameters;
  const int64_t read = (is_one_host(gpus) ? gpus : 1) * gradient_bytes(s);
  return static_cast<double>(numbers * (read + reduced_bytes(config))) / rates.memory;
}

/// What the step waits for transfers: the sums of gradients beyond the backward passes that hide them (nothing hides
/// the embedding's, which come last), then the gathering of weights beyond the update and the next forward pass. And
/// what multiprocessors do for them instead of computing.
double exchange_seconds(const RunConfig& config, const Sizes& s, int64_t parameters, const DeviceRates& rates,
                        int64_t gpus, const Hidden& hidden) {
  const auto others = static_cast<double>(gpus - 1), share = others / static_cast<double>(gpus);
  const double ring_s = is_one_host(gpus) ? 0 : others * rates.ring_step_s;
  const int64_t bucket = (config.parallel.bucket_mib << 20) / reduced_bytes(config);  // numbers
  const auto seconds = [&](int64_t numbers, int64_t bytes) {
    const int64_t buckets = (numbers + bucket - 1) / bucket;
    return static_cast<double>(numbers * bytes) * share / rates.exchange(gpus) + static_cast<double>(buckets) * ring_s;
  };
  const int64_t sent = is_one_host(gpus) && widens(config, s) ? gradient_bytes(s) : reduced_bytes(config);
  const auto batches = static_cast<double>(s.micro_batches);
  const bool every_pass = config.parallel.shard == ShardLevel::optimizer_gradients;
  const double both_ways = config.parallel.shard == ShardLevel::none ? 2 : 1;
  const double sum = both_ways * seconds(parameters, sent);
  const double last = both_ways * seconds(s.vocabulary * s.hidden, sent);
  const double waits = std::max(last, sum - hidden.backward / batches);
  const double hides_gather = hidden.update + hidden.forward;
  const double gather = is_sharded(config, gpus) ? std::max(0.0, seconds(parameters, kHalf) - hides_gather) : 0;
  return (every_pass ? batches : 1) * (waits + widening_seconds(config, s, parameters, rates, gpus)) + gather;
}

/// Seconds of one layer's attention over a micro-batch.
struct AttentionTime {
  double forward = 0, backward = 0;
};

/// Finding the focal tokens: two passes over the sampled queries' logits, or one band of blocks.
double importance_seconds(const AttentionConfig& a, const Sizes& s, const DeviceRates& rates) {
  const auto width = static_cast<double>(s.query), tokens = static_cast<double>(s.tokens);
  if (a.selection == Selection::causal) {
    const auto band = static_cast<double>(a.block_size) * (static_cast<double>(a.local_blocks) + 0.5);
    return 2 * width * tokens * band / rates.importance;
  }
  if (a.selection != Selection::global) return 0;
  const auto samples = static_cast<double>(std::min(a.sampled_queries, s.length));
  return 2 * width * tokens * samples / rates.importance;
}

AttentionTime attention_seconds(const RunConfig& config, const Sizes& s, const Layer& layer, const DeviceRates& rates) {
  const AttentionConfig& a = config.attention;
  const double flops = static_cast<double>(s.rows * s.query) * visible_pairs(a, layer.kind, s.length);
  const bool again = layer.plan == Recompute::block;
  const bool twice = again && !config.train.memory.keep_attention;
  if (!layer.grouped()) {
    const double forward = 4 * flops / rates.full_forward;
    return {forward, (twice ? forward : 0) + 10 * flops / rates.full_backward};
  }
  const double lists = static_cast<double>(2 * list_bytes(s, a)) / rates.memory;  // read and written
  const double forward = 4 * flops / rates.grouped_forward + rates.grouped_overhead_s;
  AttentionTime time;
  time.forward = importance_seconds(a, s, rates) + lists + forward;
  // Focal tokens are remembered; the lists may be made again, and their gradients take half as long again as they.
  time.backward = (again || !a.keep_lists ? 2.5 : 1.5) * lists + (twice ? forward : 0) + 3 * rates.grouped_overhead_s +
                  10 * flops / rates.grouped_backward;
  return time;
}

/// Bytes that the operations between the products read and write for one layer's forward pass.
double pointwise_bytes(const Sizes& s) {
  const int64_t norms = 2 * s.hidden + 4 * s.hidden;  // the second with the residual
  const int64_t rope = 2 * (s.query + s.key);
  const int64_t swiglu = 3 * s.intermediate;
  const int64_t residual = 2 * s.hidden;  // read and written again by the product that adds to it
  return static_cast<double>(rows_of(s, norms + rope + swiglu + residual));
}

}  // namespace

std::optional<DeviceRates> device_rates(const std::string& device_name) {
  // H100: docs/benchmarks/attention_h100.md; products of 8192^3 run at 779 TFLOP/s alone, 650 within a step, copies at
  // 2.99 TB/s, kernels at 90 % of that. H200: the same chip with 1.43 times the memory bandwidth.
  static constexpr std::array kRates = {
      DeviceRates{"H100", int64_t{79} << 30, 650e12, 645e12, 486e12, 629e12, 410e12, 1.4e-4, 300e12, 2.7e12, 50e9},
      DeviceRates{"H200", int64_t{139} << 30, 650e12, 645e12, 486e12, 629e12, 410e12, 1.4e-4, 300e12, 3.9e12, 50e9}};
  for (const DeviceRates& rates : kRates) {
    if (device_name.find(rates.name) != std::string::npos) return rates;
  }
  return std::nullopt;
}

double DeviceRates::exchange(int64_t gpus) const { return is_one_host(gpus) ? gpu_link : std::min(gpu_link, network); }

std::string prediction_obstacle(const RunConfig& config, const LlamaConfig& model) {
  if (config.train.dtype != Precision::bf16) return "train.dtype is not bf16, which the rates are for";
  if (config.attention.backend == AttentionBackend::reference) {
    return "attention.backend is reference, whose memory and time are not modelled";
  }
  for (int64_t layer = 0; layer < model.num_hidden_layers; ++layer) {
    const AttentionKind kind = kind_of_layer(config.attention, layer);
    if (!moves_positions(config.attention, kind)) continue;
    return str("attention of kind ", config::name_of(kind), " with moved positions runs by the reference operations, ",
               "whose memory and time are not modelled");
  }
  if (model.head_dim != 64 && model.head_dim != 128) {
    return str("the attention kernels take a head_dim of 64 or 128, not ", model.head_dim);
  }
  return {};
}

PredictedMemory predict_memory(const RunConfig& config, const LlamaConfig& model, int64_t gpus) {
  const Sizes s = sizes_of(config, model, gpus);
  const int64_t parameters = model.parameter_count();
  const int64_t held = is_sharded(config, gpus) ? parameters / gpus : parameters;
  PredictedMemory memory;
  memory.weights = parameters * kHalf;
  memory.gradients = gradient_memory(config, s, parameters, gpus);
  const int64_t scales = config.optimizer.moments == MomentsKind::int8 ? held / 256 * 2 * kSingle : 0;
  memory.optimizer = held * (2 + moment_bytes(config.optimizer.moments)) + scales;
  const Activations worst = worst_activations(config, s);
  if (config.optimizer.offload == OptimizerOffload::host) {
    memory.host = memory.optimizer;
    const int64_t pieces = std::min(kStreamedPieces * kStreamedPiece, held);
    memory.optimizer = pieces * (2 + moment_bytes(config.optimizer.moments));
  }
  memory.kept = worst.kept;
  memory.working = worst.working;
  memory.host += worst.host;
  memory.slack = (memory.kept + memory.working) / 50;
  return memory;
}

PredictedTime predict_time(const RunConfig& config, const LlamaConfig& model, const DeviceRates& rates, int64_t gpus) {
  const Sizes s = sizes_of(config, model, gpus);
  const auto tokens = static_cast<double>(s.tokens), batches = static_cast<double>(s.micro_batches);
  PredictedTime time;
  double flops = 6 * tokens * static_cast<double>(s.vocabulary * s.hidden), bytes = 0, offloaded = 0;
  for (int64_t index = 0; index < s.layers; ++index) {
    const Layer layer = layer_of(config, index);
    const AttentionTime attention = attention_seconds(config, s, layer, rates);
    const bool again = layer.plan == Recompute::block;
    const int64_t mlp = s.hidden * s.intermediate;
    const bool inputs_again = again && config.train.memory.offload != Offload::attention_inputs;
    const int64_t before_attention = s.hidden * (s.query + 2 * s.key);
    const int64_t recomputed = again ? s.layer_weights - mlp - (inputs_again ? 0 : before_attention)
                               : layer.plan == Recompute::selective ? 2 * mlp
                                                                    : 0;
    flops += tokens * static_cast<double>(6 * s.layer_weights + 2 * recomputed);
    time.attention += batches * (attention.forward + attention.backward);
    bytes += pointwise_bytes(s) * (again ? 4.5 : 3.5);  // the backward pass moves 2.5 times the bytes of the forward
    if (again && config.train.memory.offload != Offload::none) {
      offloaded += static_cast<double>(layer_kept(config, s, layer) + rows_of(s, s.hidden));
    }
  }
  bytes += tokens * static_cast<double>(s.vocabulary) * 14;  // logits: written, read, gradient written, read twice
  time.products = batches * flops / rates.products;
  time.pointwise = batches * bytes / rates.memory;
  // The products write the gradients, or add to them; then the norm reads them, and the update.
  const int64_t arrivals = s.micro_batches * gradient_bytes(s) + (s.micro_batches - 1) * kSingle;
  const int64_t update = 2 * (kHalf + 2 + moment_bytes(config.optimizer.moments)) + 2 * gradient_bytes(s);
  const int64_t parameters = model.parameter_count(), held = is_sharded(config, gpus) ? parameters / gpus : parameters;
  time.optimizer = static_cast<double>(parameters * arrivals + held * update) / rates.memory;
  // Inputs go out during the forward pass, a third of the computation, and come back in the rest.
  const double computed = time.products + time.attention + time.pointwise;
  time.host_copies = std::max(0.0, batches * offloaded / rates.host_link - computed / 3);
  if (config.optimizer.offload == OptimizerOffload::host) {  // there and back at the same time, beside the update
    const int64_t state = held * (2 + moment_bytes(config.optimizer.moments));
    time.host_copies += static_cast<double>(state) / rates.host_link;
  }
  if (gpus > 1) {
    const Hidden hidden{computed / 3 / batches, 2.0 / 3 * computed, static_cast<double>(held * update) / rates.memory};
    time.exchange = exchange_seconds(config, s, parameters, rates, gpus, hidden);
  }
  return time;
}

}  // namespace dga

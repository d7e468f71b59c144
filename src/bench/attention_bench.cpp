#include "bench/attention_bench.h"

#include <ATen/ATen.h>
#include <torch/autograd.h>
#include <torch/cuda.h>

#include <cmath>
#include <functional>

#include "attention/attention.h"
#include "attention/kernel_backend.h"
#include "attention/query_sampling.h"
#include "kernels/common/device.h"
#include "tensor/device_timeline.h"
#include "util/error.h"
#include "util/log.h"

namespace dga {
namespace {

constexpr int64_t kWarmUp = 3;

struct Inputs {
  std::vector<at::Tensor> qkv;  // [B, L, H or G, D], leaves
  at::Tensor grad_output;       // [B, L, H, D]
};

Inputs random_inputs(const AttentionBenchCase& c) {
  constexpr double kImportantLogit = 12;  // e^12 outweighs that a last token is seen by few queries
  const auto options = at::TensorOptions().device(at::kCUDA).dtype(at::kBFloat16);
  const auto tensor = [&](int64_t heads) { return at::randn({c.batch, c.seq_len, heads, c.head_dim}, options); };
  // scale * (x, x, ...).(x, x, ...) = x^2 sqrt(D)
  const double element = std::sqrt(kImportantLogit / std::sqrt(static_cast<double>(c.head_dim)));
  at::Tensor q = tensor(c.heads).add_(element), k = tensor(c.kv_heads);
  const at::Tensor chosen = at::rand({c.batch, c.seq_len, c.kv_heads, 1}, options).lt(c.attention.focal_ratio);
  k.add_(chosen.to(k.scalar_type()), element);
  return {{q.set_requires_grad(true), k.set_requires_grad(true), tensor(c.kv_heads).set_requires_grad(true)},
          tensor(c.heads)};
}

using ForwardCall = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

/// Marks of repeated calls in order: what the work before each mark was, and how long it took.
struct Mark {
  std::string name;
  bool warm_up = false;
  double ms = 0;
};

/// Repeats forward and backward. Marks stand before ("begin") and behind each ("forward", "backward"), and wherever
/// `observe` passes on a name. The host runs ahead of the GPU, as it does in training, so its own time is not counted.
class MarkedCalls {
 public:
  std::function<void(const char*)> recorder() {
    return [this](const char* name) {
      timeline_.mark();
      marks_.push_back({name, warm_up_});
    };
  }

  std::vector<Mark> repeat(const ForwardCall& forward, const Inputs& inputs, int64_t repeats) {
    const auto record = recorder();
    for (int64_t i = 0; i < kWarmUp + repeats; ++i) {
      warm_up_ = i < kWarmUp;
      record("begin");
      const at::Tensor output = forward(inputs.qkv);
      record("forward");
      torch::autograd::grad({output}, inputs.qkv, {inputs.grad_output});
      record("backward");
    }
    const std::vector<double> intervals = timeline_.intervals_ms();
    for (size_t i = 1; i < marks_.size(); ++i) marks_[i].ms = intervals[i - 1];
    return std::move(marks_);
  }

 private:
  DeviceTimeline timeline_{at::Device(at::kCUDA, 0)};
  std::vector<Mark> marks_;
  bool warm_up_ = true;
};

/// Median by name, in the order in which the names first appear.
std::vector<std::pair<std::string, double>> medians(const std::vector<Mark>& marks) {
  std::vector<std::string> order;
  std::map<std::string, std::vector<double>> times;
  for (const Mark& mark : marks) {
    if (mark.warm_up) continue;
    if (times[mark.name].empty()) order.push_back(mark.name);
    times[mark.name].push_back(mark.ms);
  }
  std::vector<std::pair<std::string, double>> result;
  for (const std::string& name : order) result.emplace_back(name, median(times[name]));
  return result;
}

struct BothTimes {
  double forward_ms = 0, backward_ms = 0;
};

BothTimes time_both(const ForwardCall& forward, const Inputs& inputs, int64_t repeats) {
  BothTimes both;
  for (const auto& [name, ms] : medians(MarkedCalls().repeat(forward, inputs, repeats))) {
    if (name == "forward") both.forward_ms = ms;
    if (name == "backward") both.backward_ms = ms;
  }
  return both;
}

/// The stages' medians. The lists, where the backward pass makes them again, appear as "order again" and "compress
/// again".
std::vector<std::pair<std::string, double>> time_stages(GroupedAttention attention, const Inputs& inputs,
                                                        int64_t repeats) {
  MarkedCalls calls;
  attention.stage_observer = calls.recorder();
  std::vector<Mark> stages;
  bool backward = false;
  for (Mark& mark : calls.repeat(
           [&](const std::vector<at::Tensor>& x) { return kernel_grouped_attention(x[0], x[1], x[2], attention); },
           inputs, repeats)) {
    if (mark.name == "begin" || mark.name == "forward" || mark.name == "backward") {
      backward = mark.name == "forward";
      continue;
    }
    if (backward && !mark.name.ends_with("_backward")) mark.name += " again";
    stages.push_back(mark);
  }
  return medians(stages);
}

/// While it lives, at::scaled_dot_product_attention is cuDNN's or fails.
class OnlyCudnnAttention {
 public:
  OnlyCudnnAttention() { set(false); }
  ~OnlyCudnnAttention() { set(true); }

 private:
  static void set(bool others) {
    at::globalContext().setSDPUseFlash(others);
    at::globalContext().setSDPUseMemEfficient(others);
    at::globalContext().setSDPUseMath(others);
    at::globalContext().setSDPUseCuDNN(true);
  }
};

/// Sampled query positions by rule `global`: each scores the keys up to itself, in two passes.
double scored_pairs(const AttentionBenchCase& c) {
  const AttentionConfig& a = c.attention;
  if (a.kind != AttentionKind::dga) return 0;
  if (a.selection == Selection::global) {
    double pairs = 0;
    for (const int64_t position :
         sampled_positions(a.query_sampling, a.sampled_queries, c.seq_len, CounterRng({0, 0, 0}))) {
      pairs += 2.0 * static_cast<double>(position + 1);
    }
    return pairs;
  }
  if (a.selection != Selection::causal) return 0;
  const double block = static_cast<double>(a.block_size), local = static_cast<double>(a.local_blocks);
  const double divided = std::max(0.0, std::ceil(static_cast<double>(c.seq_len) / block) - local - 1);
  return divided * (local * block * block + block * (block + 1) / 2);
}

CardRates measure_rates() {
  const auto options = at::TensorOptions().device(at::kCUDA).dtype(at::kBFloat16);
  const auto fastest = [](const std::function<void()>& work) {
    DeviceTimeline timeline(at::Device(at::kCUDA, 0));
    for (int i = 0; i < 13; ++i) {
      timeline.mark();
      work();
    }
    timeline.mark();
    std::vector<double> times = timeline.intervals_ms();
    return median({times.begin() + kWarmUp, times.end()}) / 1e3;
  };
  CardRates rates;
  constexpr int64_t kSide = 8192, kCopied = int64_t{1} << 30;
  {
    const at::Tensor a = at::randn({kSide, kSide}, options), b = at::randn({kSide, kSide}, options);
    at::Tensor product = at::empty({kSide, kSide}, options);
    rates.product_flops = 2.0 * std::pow(kSide, 3) / fastest([&] { at::mm_out(product, a, b); });
  }
  const at::Tensor source = at::empty({kCopied}, options.dtype(at::kByte));
  at::Tensor target = at::empty_like(source);
  rates.copy_bytes = 2.0 * kCopied / fastest([&] { target.copy_(source); });
  return rates;
}

}  // namespace

AttentionWork count_work(const AttentionBenchCase& c, double visible_pairs) {
  const double heads = static_cast<double>(c.batch * c.heads), width = static_cast<double>(c.head_dim);
  AttentionWork work;
  work.visible_pairs = visible_pairs;
  work.forward_flops = 4 * width * visible_pairs;
  work.backward_flops = 10 * width * visible_pairs;
  work.importance_flops = 2 * width * scored_pairs(c) * heads;
  if (c.attention.kind == AttentionKind::dga) {
    const SequenceLayout layout = SequenceLayout::whole_rows(c.batch, c.seq_len);
    const kernels::SegmentPlan plan = kernels::plan_segments(layout.starts, c.seq_len, grouping_settings(c.attention));
    const bool tokens = c.attention.selection == Selection::causal;  // the second list is the tokens themselves
    const double lists = static_cast<double>(plan.compact_length + (tokens ? 0 : plan.second_length));
    const double length = static_cast<double>(c.seq_len);
    const double row_bytes = 2.0 * 2.0 * static_cast<double>(c.batch * c.kv_heads) * width;  // a key and a value, bf16
    work.pooling_bytes = row_bytes * ((length + lists) + (2 * length + lists));              // forward; backward
  }
  return work;
}

double limit_ms(const AttentionWork& work, const CardRates& rates) {
  const double flops = work.forward_flops + work.backward_flops + work.importance_flops;
  return 1e3 * (flops / rates.product_flops + work.pooling_bytes / rates.copy_bytes);
}

std::optional<double> AttentionBenchRow::stage_ms(const std::string& name) const {
  for (const auto& [stage, ms] : stages_ms) {
    if (stage == name) return ms;
  }
  return std::nullopt;
}

AttentionBench::AttentionBench(int64_t repeats) : repeats_(repeats) {
  if (!torch::cuda::is_available()) {
    fail(ExitCode::usage, "bench attention times the CUDA kernels and there is no GPU in this machine");
  }
  rates_ = measure_rates();
  card_ = kernels::list_devices().devices.front().name;
}

AttentionBench::PeerTimes AttentionBench::peer(const AttentionBenchCase& c) {
  const std::vector<int64_t> shape = {c.batch, c.seq_len, c.heads, c.kv_heads, c.head_dim};
  if (const auto known = peers_.find(shape); known != peers_.end()) return known->second;
  PeerTimes times;
  try {
    const OnlyCudnnAttention only_cudnn;
    const BothTimes both = time_both(
        [&](const std::vector<at::Tensor>& x) {
          return at::scaled_dot_product_attention(x[0].transpose(1, 2), x[1].transpose(1, 2), x[2].transpose(1, 2), {},
                                                  0.0, /*is_causal=*/true, std::nullopt, c.heads != c.kv_heads)
              .transpose(1, 2);
        },
        random_inputs(c), repeats_);
    times = {both.forward_ms, both.backward_ms};
  } catch (const c10::Error& error) {
    log::warning("cuDNN does not take this shape: ", error.what_without_backtrace());
  }
  peers_[shape] = times;
  return times;
}

AttentionBenchRow AttentionBench::run(const AttentionBenchCase& c) {
  AttentionBenchRow row;
  row.of = c;
  row.of.attention.backend = AttentionBackend::kernel;
  row.rates = rates_;
  row.card = card_;
  const PeerTimes dense = peer(c);
  row.peer_forward_ms = dense.forward_ms;
  row.peer_backward_ms = dense.backward_ms;

  const bool deterministic = at::globalContext().deterministicAlgorithms();
  at::globalContext().setDeterministicAlgorithms(c.deterministic, /*warn_only=*/false);
  const SequenceLayout layout = SequenceLayout::whole_rows(c.batch, c.seq_len);
  const Inputs inputs = random_inputs(c);
  const std::unique_ptr<Attention> attention = make_attention(row.of.attention, 0, 0);
  const BothTimes both = time_both(
      [&](const std::vector<at::Tensor>& x) { return attention->forward(x[0], x[1], x[2], layout); }, inputs, repeats_);
  row.forward_ms = both.forward_ms;
  row.backward_ms = both.backward_ms;
  if (c.attention.kind == AttentionKind::dga) {
    const GroupedAttention grouped = grouped_attention(inputs.qkv[0], inputs.qkv[1], layout, row.of.attention, {});
    row.stages_ms = time_stages(grouped, inputs, repeats_);
    row.work = count_work(c, kernel_visible_pairs(inputs.qkv[0], inputs.qkv[1], inputs.qkv[2], grouped));
  } else {
    const double rows = static_cast<double>(c.batch * c.heads);
    row.work = count_work(c, rows * visible_pairs(c.attention, c.attention.kind, c.seq_len));
    row.stages_ms = {{"attention", both.forward_ms}, {"attention_backward", both.backward_ms}};
  }
  at::globalContext().setDeterministicAlgorithms(deterministic, /*warn_only=*/false);
  return row;
}

}  // namespace dga

#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "model/llama_config.h"
#include "run/run_config.h"

/// Memory and time of a training step on one or several GPUs, from the config alone: what `dga config` prints before
/// anything runs. Pure functions of the config; the rates are those of docs/benchmarks. Counted as if all weights
/// train, every row is one sequence, and attention runs by the CUDA kernels.
namespace dga {

/// What a device reaches, not its data sheet.
struct DeviceRates {
  const char* name;        // part of the name that the driver gives it
  int64_t memory_bytes;    // that a process can have, the driver's own share left out
  double products;         // FLOP/s of bf16 matrix products
  double full_forward;     // FLOP/s of attention by visible pairs (4 D a pair forward, 10 D backward), full causal
  double full_backward;    // in a deterministic order
  double grouped_forward;  // the same over the ranges of DGA, for long sequences
  double grouped_backward;
  double grouped_overhead_s;  // that a short sequence adds to a layer's forward pass; three times that backward
  double importance;          // FLOP/s of finding focal tokens
  double memory;              // bytes/s, read and written together
  double host_link;           // bytes/s to pinned host memory, each way
  // Bytes/s each way of a GPU to those of its host (docs/benchmarks/train_gpus_h100.md). Not measured: bytes/s of a
  // host to others, 80 % of eight adapters of 400 Gbit/s, and what a step of a ring through all GPUs takes by itself.
  double gpu_link = 245e9;
  double network = 320e9;
  double ring_step_s = 5e-6;
  /// Of a collective, each way and GPU. A ring through all GPUs enters and leaves each host once, by all its adapters.
  double exchange(int64_t gpus) const;
};

/// The rates of the device whose name contains an entry's name ("NVIDIA H100 80GB HBM3"); nothing for others.
std::optional<DeviceRates> device_rates(const std::string& device_name);

/// GPUs of a host; more are on several.
constexpr int64_t kHostGpus = 8;
inline bool is_one_host(int64_t gpus) { return gpus <= kHostGpus; }

/// Bytes at the peak of a step, of each GPU.
struct PredictedMemory {
  int64_t weights = 0;
  int64_t gradients = 0;
  int64_t optimizer = 0;
  int64_t kept = 0;     // by the forward pass for the backward pass, by the recompute plan
  int64_t working = 0;  // of the layer or loss chunk at work at the peak: its transients and gradients on their way
  int64_t slack = 0;    // of the allocator: what it rounds up and cannot use again
  int64_t host = 0;     // pinned host memory; not in the total
  int64_t total() const { return weights + gradients + optimizer + kept + working + slack; }
};
PredictedMemory predict_memory(const RunConfig& config, const LlamaConfig& model, int64_t gpus = 1);

/// Seconds of a step.
struct PredictedTime {
  double products = 0;     // of the linear layers and the output projection, recomputed ones included
  double attention = 0;    // focal tokens, groups and attention itself, what is made again included
  double pointwise = 0;    // norms, RoPE, SwiGLU, softmax of the logits: bound by memory
  double optimizer = 0;    // gradients, norm and update: bound by memory
  double host_copies = 0;  // offloading beyond what the computation hides; the optimizer's state
  // Summing gradients beyond what backward hides, gathering weights beyond what the update and the next forward pass
  // do.
  double exchange = 0;
  double total() const { return products + attention + pointwise + optimizer + host_copies + exchange; }
};
/// `gpus` share the global batch evenly.
PredictedTime predict_time(const RunConfig& config, const LlamaConfig& model, const DeviceRates& rates,
                           int64_t gpus = 1);

/// Why neither can be predicted for this config, in one sentence; empty where both can.
std::string prediction_obstacle(const RunConfig& config, const LlamaConfig& model);

}  // namespace dga

#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace dga {

/// How the ranks' numbers are combined.
enum class Reduction { sum, max };  // a NaN may be lost under max

/// A collective that has begun.
class PendingCollective {
 public:
  virtual ~PendingCollective() = default;
  /// After this the result may be used: on a GPU by later work of the current stream (the host does not wait), on a CPU
  /// by the caller. Throws what went wrong, naming the rank where that is known.
  virtual void wait() = 0;
};

/// The ranks of a run: processes that call the same operations in the same order. A collective takes contiguous tensors
/// of one device and begins after the current stream's work so far; tensors must stay alive and
/// unchanged until wait(). When a rank fails or disappears, every call on the others throws, or ends the process, in
/// less than a minute, naming it.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int64_t rank() const = 0;
  virtual int64_t world_size() const = 0;
  /// Whether this rank writes what the run writes once: metrics, logs, results.
  bool is_first() const { return rank() == 0; }

  /// Among the ranks of this host; the number of its GPU.
  virtual int64_t local_rank() const { return 0; }
  virtual int64_t local_world_size() const { return 1; }
  /// How long a collective or an exchange may take before the run ends: parallel.timeout_seconds.
  virtual void set_time_limit(std::chrono::seconds) {}

  /// Zeros [count] for what collectives read and write in every step, as all weights: among GPUs of one host in memory
  /// that copy engines move, while the multiprocessors compute. All ranks call it in the same order with the same
  /// count.
  virtual at::Tensor allocate(int64_t count, const at::TensorOptions& options);
  /// Bytes that allocate() and the collectives have taken on the device beside LibTorch's allocator.
  virtual int64_t allocated_bytes() const { return 0; }

  /// In place.
  virtual std::unique_ptr<PendingCollective> all_reduce(at::Tensor numbers, Reduction reduction) = 0;
  /// Sums input [n * world_size] over the ranks and gives this rank part rank() of it, [n]; output may be that part of
  /// the input itself. bf16 may be summed into fp32: the ranks' numbers as they are, in fp32.
  virtual std::unique_ptr<PendingCollective> reduce_scatter(at::Tensor output, const at::Tensor& input) = 0;
  /// Puts the ranks' inputs [n] one after the other, [n * world_size]; input may be part rank() of the output itself.
  virtual std::unique_ptr<PendingCollective> all_gather(at::Tensor output, const at::Tensor& input) = 0;

  /// Each rank's text, by rank; for small things and any thread, beside the collectives. `topic` names the call: all
  /// ranks give the same one, and each only once in a run. Waits for the slowest, at most parallel.timeout_seconds.
  virtual std::vector<std::string> exchange(const std::string& topic, const std::string& text) = 0;

  /// Tells the other ranks (in messages about this one) how far it is.
  virtual void set_step(int64_t step) = 0;
  /// Throws what ended the run, if something has. To be called after the host has waited for the device and before it
  /// believes the numbers: a failure ends collectives on the device too, with whatever is in their results.
  virtual void check() const {}
  /// Tells the other ranks that this one fails with `message`: they end with it.
  virtual void report_failure(const std::string&) {}
};

/// A run of one process: nothing to wait for.
std::unique_ptr<Communicator> make_single_communicator();

}  // namespace dga

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "dist/communicator.h"
#include "ops/gradient_sink.h"
#include "optim/data_parallel.h"
#include "optim/flat_layout.h"
#include "optim/group_progress.h"
#include "optim/rank_share.h"

namespace dga {

/// Whether a step has another backward pass after this one.
enum class BackwardPass { more_follow, last };

/// How the gradients of a step's micro-batches add up.
enum class GradientSum { as_weights, fp32 };

/// Types and places of gradients.
struct GradientPlan {
  ShardLevel level = ShardLevel::none;
  at::ScalarType local;    // of one rank's gradients
  at::ScalarType reduced;  // in which they are summed over the ranks
  at::ScalarType owned;    // of the sums that a rank owns, which are kept apart where gradients are sharded or this is
                           // another type than `local`
};
/// One rank shards nothing and keeps its gradients as they are.
GradientPlan plan_gradients(const DataParallel& parallel, int64_t ranks, at::ScalarType weights, GradientSum sum);

/// The gradients of a step and their sums over the ranks, which are made group by group while backward goes on to the
/// parameters before. Where gradients are not sharded all have their place in one flat tensor, the step's passes add up
/// in it, and the last one reduces. Where they are, a group has memory from its first gradient until it is reduced, and
/// every pass reduces into the part that the rank owns.
class GradientReduction {
 public:
  /// `layout`, `share` and `ranks` must outlive this.
  GradientReduction(const std::vector<TrainedParameter>& parameters, const FlatLayout& layout, const RankShare& share,
                    const GradientPlan& plan, Communicator& ranks);
  ~GradientReduction();
  GradientReduction(const GradientReduction&) = delete;
  GradientReduction& operator=(const GradientReduction&) = delete;

  /// Before every backward pass; one rank may leave it out.
  void begin(BackwardPass pass);
  /// After a step's last pass: what did not come by then counts as zero. Later work of the current stream finds the
  /// sums.
  void finish();
  /// The step is over; the sums are empty.
  void clear();

  /// The summed gradient of a held range. After finish().
  at::Tensor gradient_of(const HeldRange& range) const;
  /// The gradients of all owned ranges, in as few tensors as they lie in. After finish().
  std::vector<at::Tensor> owned_gradients() const;
  const GradientSink& sink(size_t parameter) const { return *sinks_[parameter]; }
  /// Bytes that this rank gave to reductions since clear().
  int64_t reduced_bytes() const { return reduced_bytes_; }

 private:
  using Buffer = std::shared_ptr<at::Tensor>;
  /// A bucket on its way.
  struct Flight {
    std::unique_ptr<PendingCollective> pending;
    at::Tensor result, target;  // the same memory where nothing is left to do
    bool adds = false;          // to the target
    Buffer buffer;              // that the bucket lies in, if it has one
  };

  bool has_buffers() const { return !whole_.defined(); }
  void provide_memory(size_t group);
  Buffer take_buffer(int64_t numbers);
  void complete(size_t slot);
  void reduce_left();
  void reduce_group(size_t group);
  bool is_staged() const;
  at::Tensor staged(const at::Tensor& local);
  void reduce_bucket(const at::Tensor& local, size_t bucket, const Buffer& buffer);
  void land_first();

  const FlatLayout& layout_;
  const RankShare& share_;
  GradientPlan plan_;
  Communicator& ranks_;
  std::vector<at::Tensor> parameters_;
  at::TensorOptions options_;
  std::vector<std::shared_ptr<GradientSink>> sinks_;  // one for each parameter
  std::vector<size_t> first_bucket_;                  // of each group, among all buckets
  at::Tensor whole_;                                  // [layout.size]; undefined where gradients are sharded
  at::Tensor owned_;                                  // [share.state_size]; undefined where whole_ has the sums
  std::vector<at::Tensor> staging_;                   // two buckets in the type of the reduction, where it needs them
  std::vector<Buffer> buffers_;                       // for groups; free where nobody else holds one
  std::vector<Buffer> group_buffer_;                  // by group, while it is open
  std::deque<Flight> flights_;
  GroupProgress progress_;
  BackwardPass pass_ = BackwardPass::last;
  int64_t passes_ = 0;  // of the step that have begun
  int64_t staged_ = 0;  // buckets so far
  bool finished_ = false;
  int64_t reduced_bytes_ = 0;
};

}  // namespace dga

#include <ATen/ATen.h>

#include "dist/collectives.h"
#include "dist/rank_group.h"
#include "util/error.h"

namespace dga {
namespace {

class RankCommunicator final : public Communicator {
 public:
  explicit RankCommunicator(RankGroup& ranks) : ranks_(ranks) {}

  int64_t rank() const override { return ranks_.rank(); }
  int64_t world_size() const override { return ranks_.world_size(); }
  int64_t local_rank() const override { return ranks_.place().local_rank; }
  int64_t local_world_size() const override { return ranks_.place().local_world_size; }
  void set_time_limit(std::chrono::seconds limit) override { ranks_.set_limit(limit); }

  at::Tensor allocate(int64_t count, const at::TensorOptions& options) override {
    return among(options.device()).allocate(count, options);
  }
  int64_t allocated_bytes() const override { return nccl_ ? nccl_->allocated_bytes() : 0; }

  std::unique_ptr<PendingCollective> all_reduce(at::Tensor numbers, Reduction reduction) override {
    check_tensor(numbers);
    return among(numbers.device()).all_reduce(numbers, reduction);
  }
  std::unique_ptr<PendingCollective> reduce_scatter(at::Tensor output, const at::Tensor& input) override {
    const bool widens = input.scalar_type() == at::kBFloat16 && output.scalar_type() == at::kFloat;
    check_part(output, input, widens ? at::kFloat : input.scalar_type());
    return among(input.device()).reduce_scatter(output, input);
  }
  std::unique_ptr<PendingCollective> all_gather(at::Tensor output, const at::Tensor& input) override {
    check_part(input, output, output.scalar_type());
    return among(input.device()).all_gather(output, input);
  }

  std::vector<std::string> exchange(const std::string& topic, const std::string& text) override {
    return ranks_.exchange(topic, text);
  }
  void set_step(int64_t step) override { ranks_.set_step(step); }
  void check() const override { ranks_.check(); }
  void report_failure(const std::string& message) override { ranks_.report_failure(message); }

 private:
  static void check_tensor(const at::Tensor& tensor) {
    DGA_CHECK(tensor.is_contiguous(), "a collective takes contiguous tensors");
  }
  void check_part(const at::Tensor& part, const at::Tensor& whole, at::ScalarType part_type) const {
    check_tensor(part);
    check_tensor(whole);
    DGA_CHECK(part.numel() * world_size() == whole.numel() && part.scalar_type() == part_type &&
                  part.device() == whole.device(),
              "a part of ", part.numel(), " numbers does not fit ", whole.numel(), " on ", world_size(), " ranks");
  }

  Collectives& among(c10::Device device) {
    std::unique_ptr<Collectives>& made = device.is_cuda() ? nccl_ : gloo_;
    if (!made) made = connect(device);
    return *made;
  }

  std::unique_ptr<Collectives> connect(c10::Device device) {
    const std::string topic = str("device of collectives ", ++connections_);
    const std::vector<std::string> kinds = ranks_.exchange(topic, device.is_cuda() ? "a GPU" : "the CPU");
    for (size_t other = 1; other < kinds.size(); ++other) {
      if (kinds[other] == kinds[0]) continue;
      fail(ExitCode::config, "run.device: ", ranks_.name_of(0), " works on ", kinds[0], ", ",
           ranks_.name_of(static_cast<int64_t>(other)), " on ", kinds[other], "; set it to cpu or cuda for all");
    }
    FailureBoard& board = ranks_.watch()->board();
    const int64_t number = board.begin("the connection of the ranks");
    auto made = device.is_cuda() ? make_nccl_collectives(ranks_, device) : make_gloo_collectives(ranks_);
    board.end(number);
    return made;
  }

  RankGroup& ranks_;
  int64_t connections_ = 0;
  std::unique_ptr<Collectives> gloo_;
  std::unique_ptr<Collectives> nccl_;
};

}  // namespace

std::unique_ptr<Communicator> make_communicator(RankGroup& ranks) {
  if (ranks.world_size() == 1) return make_single_communicator();
  return std::make_unique<RankCommunicator>(ranks);
}

}  // namespace dga

#include <ATen/ATen.h>

#include "dist/communicator.h"

namespace dga {
namespace {

class Done final : public PendingCollective {
 public:
  void wait() override {}
};

class SingleCommunicator final : public Communicator {
 public:
  int64_t rank() const override { return 0; }
  int64_t world_size() const override { return 1; }

  std::unique_ptr<PendingCollective> all_reduce(at::Tensor, Reduction) override { return std::make_unique<Done>(); }
  std::unique_ptr<PendingCollective> reduce_scatter(at::Tensor output, const at::Tensor& input) override {
    return copy(std::move(output), input);
  }
  std::unique_ptr<PendingCollective> all_gather(at::Tensor output, const at::Tensor& input) override {
    return copy(std::move(output), input);
  }
  std::vector<std::string> exchange(const std::string&, const std::string& text) override { return {text}; }
  void set_step(int64_t) override {}

 private:
  static std::unique_ptr<PendingCollective> copy(at::Tensor output, const at::Tensor& input) {
    const at::NoGradGuard no_grad;
    if (output.data_ptr() != input.data_ptr()) output.copy_(input);
    return std::make_unique<Done>();
  }
};

}  // namespace

at::Tensor Communicator::allocate(int64_t count, const at::TensorOptions& options) {
  return at::zeros({count}, options);
}

std::unique_ptr<Communicator> make_single_communicator() { return std::make_unique<SingleCommunicator>(); }

}  // namespace dga

#include "dist/operations.h"

#include <ATen/ATen.h>

#include <cmath>

#include "dist/ranks.h"
#include "util/error.h"

namespace dga::testing {
namespace {

/// What rank puts at place i: small whole numbers, whose sums every type but bf16 holds exactly.
double value(int64_t rank, int64_t i) { return static_cast<double>((i * 7 + rank * 13) % 101 - 50); }

at::Tensor input(int64_t rank, int64_t count, at::TensorOptions options) {
  std::vector<double> numbers;
  for (int64_t i = 0; i < count; ++i) numbers.push_back(value(rank, i));
  return at::tensor(numbers, at::kDouble).to(options);
}

double combined(int64_t world_size, int64_t i, Reduction reduction) {
  double result = value(0, i);
  for (int64_t rank = 1; rank < world_size; ++rank) {
    result = reduction == Reduction::sum ? result + value(rank, i) : std::max(result, value(rank, i));
  }
  return result;
}

/// Compares numbers[i] with expected(i); bf16 has 8 bits of precision and may be rounded once for each rank.
template <class Expected>
void compare(const at::Tensor& numbers, const std::string& what, const Expected& expected) {
  const bool rounded = numbers.scalar_type() == at::kBFloat16;
  const at::Tensor host = numbers.to(at::kCPU).to(at::kDouble);
  const double* values = host.data_ptr<double>();
  for (int64_t i = 0; i < host.numel(); ++i) {
    const double wanted = expected(i);
    if (std::fabs(values[i] - wanted) <= (rounded ? 2.0 : 0.0)) continue;
    require(false, str(what, " of ", host.numel(), " ", numbers.dtype().name(), ": [", i, "] is ", values[i], ", not ",
                       wanted));
  }
}

void check_size(Communicator& ranks, int64_t count, at::TensorOptions options) {
  const int64_t world = ranks.world_size(), rank = ranks.rank();
  for (const Reduction reduction : {Reduction::sum, Reduction::max}) {
    const at::Tensor numbers = input(rank, count, options);
    ranks.all_reduce(numbers, reduction)->wait();
    compare(numbers, "all_reduce", [&](int64_t i) { return combined(world, i, reduction); });
  }
  const auto sum_at = [&](int64_t i) { return combined(world, rank * count + i, Reduction::sum); };
  for (const bool in_place : {false, true}) {
    const at::Tensor whole = input(rank, count * world, options);
    const at::Tensor part = in_place ? whole.narrow(0, rank * count, count) : at::zeros({count}, options);
    ranks.reduce_scatter(part, whole)->wait();
    compare(part, "reduce_scatter", sum_at);
  }
  const auto gathered_at = [&](int64_t i) { return value(i / count, i % count); };
  for (const bool in_place : {false, true}) {
    const at::Tensor whole = at::zeros({count * world}, options);
    at::Tensor part = input(rank, count, options);
    if (in_place) {
      whole.narrow(0, rank * count, count).copy_(part);
      part = whole.narrow(0, rank * count, count);
    }
    ranks.all_gather(whole, part)->wait();
    compare(whole, "all_gather", gathered_at);
  }
}

/// Sums of bf16 numbers in fp32: exact, where sums in bf16 are not.
void check_widened_sum(Communicator& ranks, const at::Tensor& whole) {
  const int64_t world = ranks.world_size(), rank = ranks.rank(), count = whole.numel() / world;
  whole.copy_(input(rank, count * world, whole.options()).mul_(4));
  const at::Tensor before = whole.clone(), part = at::zeros({count}, whole.options().dtype(at::kFloat));
  ranks.reduce_scatter(part, whole)->wait();
  compare(part, "reduce_scatter of bf16 into",
          [&](int64_t i) { return 4 * combined(world, rank * count + i, Reduction::sum); });
  require(whole.equal(before), "reduce_scatter changed its input");
}

/// The same memory in one collective after the other, as weights and gradients are.
void check_allocated(Communicator& ranks, int64_t count, c10::Device device) {
  const int64_t world = ranks.world_size(), rank = ranks.rank();
  const at::Tensor memory = ranks.allocate(2 * count * world, at::TensorOptions(at::kBFloat16).device(device));
  require(memory.eq(0).all().item<bool>(), "allocated memory is not zero");
  for (int round = 0; round < 10; ++round) {
    const at::Tensor whole = memory.narrow(0, round % 2 * count * world, count * world);
    check_widened_sum(ranks, whole);
    const at::Tensor part = whole.narrow(0, rank * count, count);
    part.copy_(input(rank + round, count, whole.options()));
    ranks.all_gather(whole, part)->wait();
    compare(whole, "all_gather in allocated memory", [&](int64_t i) { return value(i / count + round, i % count); });
  }
}

/// Several collectives under way at once, waited for in another order, with work on the device around them.
void check_overlap(Communicator& ranks, at::TensorOptions options) {
  constexpr int64_t kCount = 50000;
  const int64_t world = ranks.world_size(), rank = ranks.rank();
  std::vector<at::Tensor> numbers;
  std::vector<std::unique_ptr<PendingCollective>> pending;
  for (int64_t k = 0; k < 6; ++k) {
    numbers.push_back(input(rank, kCount, options).mul_(k + 1));
    pending.push_back(ranks.all_reduce(numbers.back(), Reduction::sum));
  }
  for (int64_t k = 5; k >= 0; --k) {
    pending[static_cast<size_t>(k)]->wait();
    pending[static_cast<size_t>(k)].reset();
    numbers[static_cast<size_t>(k)].add_(1);
  }
  for (int64_t k = 0; k < 6; ++k) {
    compare(numbers[static_cast<size_t>(k)], "overlapping all_reduce",
            [&](int64_t i) { return static_cast<double>(k + 1) * combined(world, i, Reduction::sum) + 1; });
  }
}

}  // namespace

void check_operations(Communicator& communicator, c10::Device device) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16, at::kInt, at::kLong}) {
    for (const int64_t count : {1, 7, 256, 3001}) {
      check_size(communicator, count, at::TensorOptions(type).device(device));
    }
  }
  check_size(communicator, 200003, at::TensorOptions(at::kFloat).device(device));
  for (const int64_t count : {1, 7, 3001, 200003}) {
    const auto options = at::TensorOptions(at::kBFloat16).device(device);
    check_widened_sum(communicator, at::zeros({count * communicator.world_size()}, options));
    check_allocated(communicator, count, device);
  }
  check_overlap(communicator, at::TensorOptions(at::kFloat).device(device));
}

}  // namespace dga::testing

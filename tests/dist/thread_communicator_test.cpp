#include "support/thread_communicator.h"

#include <gtest/gtest.h>

#include "support/tensor_compare.h"

namespace dga {
namespace {

using testing::run_ranks;

/// A number that differs between ranks and places.
at::Tensor numbers_of(int64_t rank, int64_t count) { return at::arange(count, at::kDouble) + 100.0 * rank; }

TEST(ThreadCommunicator, SumsScattersAndGathers) {
  run_ranks(3, [](Communicator& ranks) {
    const at::Tensor sum = numbers_of(ranks.rank(), 6), max = sum.clone(), input = sum.clone();
    ranks.all_reduce(sum, Reduction::sum)->wait();
    DGA_CHECK(at::equal(sum, at::arange(6, at::kDouble) * 3 + 300), sum);
    ranks.all_reduce(max, Reduction::max)->wait();
    DGA_CHECK(at::equal(max, numbers_of(2, 6)), max);
    const at::Tensor part = input.narrow(0, 2 * ranks.rank(), 2);  // of the input itself
    ranks.reduce_scatter(part, input)->wait();
    DGA_CHECK(at::equal(part, sum.narrow(0, 2 * ranks.rank(), 2)), part);
    ranks.all_gather(input, part)->wait();
    DGA_CHECK(at::equal(input, sum), input);
    const std::vector<std::string> texts = ranks.exchange("names", str("rank ", ranks.rank()));
    DGA_CHECK(texts == std::vector<std::string>({"rank 0", "rank 1", "rank 2"}), texts.size());
  });
}

TEST(ThreadCommunicator, ReadsAtTheCallAndWritesAtTheWait) {
  run_ranks(2, [](Communicator& ranks) {
    const at::Tensor input = numbers_of(ranks.rank(), 2), output = at::zeros({1}, at::kDouble);
    const auto pending = ranks.reduce_scatter(output, input);
    DGA_CHECK(output.item<double>() == 0, output);
    pending->wait();
    DGA_CHECK(output.item<double>() == 100 + 2 * ranks.rank(), output);
  });
  EXPECT_THROW(run_ranks(2,
                         [](Communicator& ranks) {
                           const at::Tensor input = numbers_of(ranks.rank(), 2);
                           const auto pending = ranks.all_reduce(input, Reduction::sum);
                           input.add_(1);
                           pending->wait();
                         }),
               Error);
}

TEST(ThreadCommunicator, ARankThatFailsOrEndsStopsTheOthers) {
  const auto message_of = [](const std::function<void(Communicator&)>& work) -> std::string {
    try {
      run_ranks(3, work);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const auto sum = [](Communicator& ranks) { ranks.all_reduce(at::ones({1}), Reduction::sum)->wait(); };
  EXPECT_EQ(message_of([&](Communicator& ranks) {
              if (ranks.rank() == 1) fail(ExitCode::failure, "out of luck");
              sum(ranks);
            }),
            "out of luck");
  const std::string ended = message_of([&](Communicator& ranks) {
    if (ranks.rank() != 1) sum(ranks);
  });
  EXPECT_NE(ended.find("rank 1 has ended"), std::string::npos) << ended;
  const std::string different =
      message_of([&](Communicator& ranks) { ranks.all_reduce(at::ones({1 + ranks.rank()}), Reduction::sum)->wait(); });
  EXPECT_NE(different.find("all_reduce sum of"), std::string::npos) << different;
}

}  // namespace
}  // namespace dga

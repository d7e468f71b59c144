#include "eval/rounds.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "dist/together.h"
#include "util/error.h"
#include "util/signals.h"

namespace dga {
namespace {

// What each rank sends before its numbers.
constexpr int64_t kFailed = 0, kSignal = 1, kHead = 2;

}  // namespace

PassRounds::PassRounds(const EvalRanks& ranks, std::string topic) : ranks_(ranks), topic_(std::move(topic)) {}

std::vector<at::Tensor> PassRounds::run(const std::vector<int64_t>& counts,
                                        const std::function<at::Tensor(size_t)>& pass) {
  DGA_CHECK(!counts.empty() && counts.size() <= size(), counts.size(), " passes for ", size(), " ranks");
  const auto rank = static_cast<size_t>(ranks_.ranks.rank());
  at::Tensor own = at::empty({0}, at::kDouble);
  std::exception_ptr failure;
  try {
    if (rank < counts.size()) own = pass(rank).to(at::kDouble).contiguous().view(-1);
    const int64_t expected = rank < counts.size() ? counts[rank] : 0;
    DGA_CHECK(own.numel() == expected, "a pass gave ", own.numel(), " numbers in place of ", expected);
  } catch (...) {
    failure = std::current_exception();
  }
  if (size() == 1) {
    stop_signal_ = dga::stop_signal();
    if (failure) std::rethrow_exception(failure);
    return {own};
  }
  const int64_t longest = *std::max_element(counts.begin(), counts.end());
  const at::Tensor all = gather(own, longest, failure != nullptr);  // [W, head + longest]
  if (all.select(1, kFailed).any().item<bool>()) {
    run_together(ranks_.ranks, topic_ + "/failure", [&]() -> std::string {
      if (failure) std::rethrow_exception(failure);
      return "";
    });
  }
  stop_signal_ = static_cast<int>(all.select(1, kSignal).max().item<double>());
  std::vector<at::Tensor> results;
  for (size_t i = 0; i < counts.size(); ++i)
    results.push_back(all[static_cast<int64_t>(i)].narrow(0, kHead, counts[i]));
  return results;
}

at::Tensor PassRounds::gather(const at::Tensor& own, int64_t longest, bool failed) {
  const at::Tensor mine = at::zeros({kHead + longest}, at::kDouble);
  mine[kFailed].fill_(failed ? 1 : 0);
  mine[kSignal].fill_(dga::stop_signal());
  if (!failed) mine.narrow(0, kHead, own.numel()).copy_(own);
  const at::Tensor input = mine.to(ranks_.device);
  const at::Tensor output = at::empty({ranks_.ranks.world_size(), kHead + longest}, input.options());
  ranks_.ranks.all_gather(output, input)->wait();
  return output.cpu();
}

}  // namespace dga

#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "dist/communicator.h"
#include "util/error.h"

namespace dga::testing {

/// What the threads of run_ranks() share. Sums are made in the order of the ranks.
class ThreadGroup {
 public:
  explicit ThreadGroup(int64_t world_size) : world_size_(world_size), ended_(world_size, false) {}

  int64_t world_size() const { return world_size_; }

  /// Adds a rank's input to its call number `call`.
  void bring(int64_t rank, int64_t call, const std::string& what, const at::Tensor& input) {
    const std::lock_guard lock(mutex_);
    Call& entry = calls_[call];
    if (entry.inputs.empty()) {
      entry.what = what;
      entry.inputs.resize(world_size_);
    }
    DGA_CHECK(entry.what == what, "call ", call, " of rank ", rank, " is ", what, ", of another ", entry.what);
    entry.inputs[rank] = input;
    changed_.notify_all();
  }

  /// All ranks' inputs to a call, once they are there.
  std::vector<at::Tensor> take(int64_t rank, int64_t call) {
    std::unique_lock lock(mutex_);
    Call& entry = calls_.at(call);
    wait(lock, rank, entry.what, [&](int64_t other) { return entry.inputs[other].defined(); });
    std::vector<at::Tensor> inputs = entry.inputs;
    if (++entry.taken == world_size_) calls_.erase(call);
    return inputs;
  }

  std::vector<std::string> exchange(int64_t rank, const std::string& topic, const std::string& text) {
    std::unique_lock lock(mutex_);
    std::vector<std::optional<std::string>>& texts = topics_[topic];
    texts.resize(world_size_);
    DGA_CHECK(!texts[rank], "rank ", rank, " exchanges topic ", topic, " twice");
    texts[rank] = text;
    changed_.notify_all();
    wait(lock, rank, "topic " + topic, [&](int64_t other) { return texts[other].has_value(); });
    std::vector<std::string> all;
    for (const std::optional<std::string>& one : texts) all.push_back(*one);
    return all;
  }

  /// The rank makes no further call; `error` is null where it ended well. Others that wait for it throw.
  void end(int64_t rank, const std::exception_ptr& error) {
    const std::lock_guard lock(mutex_);
    ended_[rank] = true;
    if (error && !first_error_) {
      first_error_ = error;
      failed_rank_ = rank;
    }
    changed_.notify_all();
  }
  void rethrow_first_error() const {
    if (first_error_) std::rethrow_exception(first_error_);
  }

 private:
  struct Call {
    std::string what;
    std::vector<at::Tensor> inputs;  // by rank, undefined until brought
    int64_t taken = 0;
  };

  /// Until has_come(rank) of all ranks. Throws if one cannot come any more, or nothing happens for a minute.
  template <class HasCome>
  void wait(std::unique_lock<std::mutex>& lock, int64_t rank, const std::string& what, const HasCome& has_come) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    for (int64_t other = 0; other < world_size_;) {
      if (has_come(other)) {
        ++other;
        continue;
      }
      if (first_error_) fail(ExitCode::failure, "rank ", failed_rank_, " failed; rank ", rank, " waited in ", what);
      DGA_CHECK(!ended_[other], "rank ", other, " has ended; rank ", rank, " waited for it in ", what);
      const bool late = changed_.wait_until(lock, deadline) == std::cv_status::timeout;
      DGA_CHECK(!late, "rank ", rank, " waited too long for rank ", other, " in ", what);
    }
  }

  const int64_t world_size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<int64_t, Call> calls_;  // by number; every rank counts its own
  std::map<std::string, std::vector<std::optional<std::string>>> topics_;
  std::vector<bool> ended_;
  std::exception_ptr first_error_;
  int64_t failed_rank_ = 0;
};

/// One thread's end of a ThreadGroup. As hostile as the interface allows: an input is read when the collective begins
/// and the result is there after wait() and not before; an input that has changed meanwhile is an error.
class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(ThreadGroup& group, int64_t rank) : group_(group), rank_(rank) {}

  int64_t rank() const override { return rank_; }
  int64_t world_size() const override { return group_.world_size(); }

  std::unique_ptr<PendingCollective> all_reduce(at::Tensor numbers, Reduction reduction) override {
    const std::string what = reduction == Reduction::sum ? "sum" : "max";
    return begin("all_reduce " + what, numbers, numbers,
                 [reduction](const std::vector<at::Tensor>& inputs) { return reduced(inputs, reduction); });
  }
  std::unique_ptr<PendingCollective> reduce_scatter(at::Tensor output, const at::Tensor& input) override {
    const int64_t size = output.numel();
    DGA_CHECK(input.numel() == size * world_size(), "reduce_scatter of ", input.numel(), " numbers into ", size);
    const bool widens = input.scalar_type() == at::kBFloat16 && output.scalar_type() == at::kFloat;
    const at::ScalarType type = widens ? at::kFloat : input.scalar_type();
    DGA_CHECK(output.scalar_type() == type, "reduce_scatter: tensors differ in type");
    return begin("reduce_scatter", std::move(output), input,
                 [first = rank_ * size, size, type](const std::vector<at::Tensor>& inputs) {
                   std::vector<at::Tensor> parts;
                   for (const at::Tensor& one : inputs) parts.push_back(one.narrow(0, first, size).to(type));
                   return reduced(parts, Reduction::sum);
                 });
  }
  std::unique_ptr<PendingCollective> all_gather(at::Tensor output, const at::Tensor& input) override {
    DGA_CHECK(output.numel() == input.numel() * world_size(), "all_gather of ", input.numel(), " numbers into ",
              output.numel());
    DGA_CHECK(output.scalar_type() == input.scalar_type(), "all_gather: tensors differ in type");
    return begin("all_gather", std::move(output), input,
                 [](const std::vector<at::Tensor>& inputs) { return at::cat(inputs); });
  }

  std::vector<std::string> exchange(const std::string& topic, const std::string& text) override {
    return group_.exchange(rank_, topic, text);
  }
  void set_step(int64_t) override {}

 private:
  using Combine = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

  struct Pending final : PendingCollective {
    void wait() override {
      const std::vector<at::Tensor> inputs = group->take(rank, call);
      const at::NoGradGuard no_grad;
      DGA_CHECK(std::memcmp(input.const_data_ptr(), snapshot.const_data_ptr(), input.nbytes()) == 0, what, " of rank ",
                rank, ": the input was written to before wait()");
      output.copy_(combine(inputs).view_as(output));
    }
    ThreadGroup* group = nullptr;
    int64_t rank = 0, call = 0;
    std::string what;
    at::Tensor output, input, snapshot;
    Combine combine;
  };

  static at::Tensor reduced(const std::vector<at::Tensor>& inputs, Reduction reduction) {
    at::Tensor result = inputs.front().clone();
    for (size_t i = 1; i < inputs.size(); ++i) {
      result = reduction == Reduction::sum ? result.add_(inputs[i]) : at::maximum(result, inputs[i]);
    }
    return result;
  }

  std::unique_ptr<PendingCollective> begin(const std::string& kind, at::Tensor output, const at::Tensor& input,
                                           Combine combine) {
    const at::NoGradGuard no_grad;
    DGA_CHECK(output.is_contiguous() && input.is_contiguous(), kind, ": tensors must be contiguous");
    auto pending = std::make_unique<Pending>();
    pending->group = &group_;
    pending->rank = rank_;
    pending->call = calls_++;
    pending->what = str(kind, " of ", input.numel(), " ", c10::toString(input.scalar_type()));
    pending->output = std::move(output);
    pending->input = input;
    pending->snapshot = input.detach().clone().view(-1);
    pending->combine = std::move(combine);
    group_.bring(rank_, pending->call, pending->what, pending->snapshot);
    return pending;
  }

  ThreadGroup& group_;
  int64_t rank_;
  int64_t calls_ = 0;
};

/// Calls work(communicator) on one thread for each of `world_size` ranks and waits for all. Where some throw, the
/// others that wait for them do too; the error of the one that was first is thrown.
inline void run_ranks(int64_t world_size, const std::function<void(Communicator&)>& work) {
  ThreadGroup group(world_size);
  {
    std::vector<std::jthread> threads;
    for (int64_t rank = 0; rank < world_size; ++rank) {
      threads.emplace_back([&group, &work, rank] {
        ThreadCommunicator communicator(group, rank);
        std::exception_ptr error;
        try {
          work(communicator);
        } catch (...) {
          error = std::current_exception();
        }
        group.end(rank, error);
      });
    }
  }
  group.rethrow_first_error();
}

}  // namespace dga::testing

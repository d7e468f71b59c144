#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "data/encoder.h"

namespace dga {

/// Threads that run tasks in the order of their submission, each with an Encoder of its own.
class EncoderPool {
 public:
  using Task = std::function<void(Encoder&)>;

  EncoderPool(const Tokenizer& tokenizer, int64_t threads);
  /// Finishes the tasks under way; no further ones may be waiting.
  ~EncoderPool();
  EncoderPool(const EncoderPool&) = delete;
  EncoderPool& operator=(const EncoderPool&) = delete;

  /// A task must not throw.
  void submit(Task task);
  int64_t threads() const { return static_cast<int64_t>(threads_.size()); }

 private:
  void run(const std::stop_token& stop);

  const Tokenizer& tokenizer_;
  std::mutex mutex_;
  std::condition_variable_any available_;
  std::deque<Task> tasks_;
  std::vector<std::jthread> threads_;  // last: joined before the rest goes
};

}  // namespace dga

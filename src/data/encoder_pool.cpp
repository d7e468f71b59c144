#include "data/encoder_pool.h"

#include <utility>

namespace dga {

EncoderPool::EncoderPool(const Tokenizer& tokenizer, int64_t threads) : tokenizer_(tokenizer) {
  for (int64_t i = 0; i < threads; ++i) {
    threads_.emplace_back([this](const std::stop_token& stop) { run(stop); });
  }
}

EncoderPool::~EncoderPool() {
  for (std::jthread& thread : threads_) thread.request_stop();
}

void EncoderPool::submit(Task task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  available_.notify_one();
}

void EncoderPool::run(const std::stop_token& stop) {
  Encoder encoder(tokenizer_);
  while (true) {
    Task task;
    {
      std::unique_lock lock(mutex_);
      if (!available_.wait(lock, stop, [this] { return !tasks_.empty(); })) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task(encoder);
  }
}

}  // namespace dga

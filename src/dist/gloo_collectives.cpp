#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "dist/collectives.h"
#include "dist/gloo_group.h"
#include "dist/rank_group.h"
#include "util/error.h"
#include "util/first_line.h"

namespace dga {
namespace {

struct GlooItem {
  std::string name;
  int64_t number = 0;
  std::function<void(GlooGroup&)> run;
  // Under the board's lock.
  bool done = false;
  std::string error;
};

/// What GlooCollectives shares with the thread that its collectives run in, which may hang in one of them when the run
/// has failed.
struct GlooQueue {
  explicit GlooQueue(RankGroup& ranks) : group(ranks), board(&ranks.watch()->board()) {}

  GlooGroup group;
  std::mutex mutex;
  std::condition_variable changed;
  FailureBoard* board;  // null once GlooCollectives has left this to its thread
  std::deque<std::shared_ptr<GlooItem>> items;
  bool closed = false;
  bool ended = false;  // under the board's lock
};

std::string run_item(GlooGroup& group, const GlooItem& item) {
  try {
    item.run(group);
    return "";
  } catch (const std::exception& e) {
    return first_line(e.what());
  }
}

/// Runs collectives in the order in which they began, until one fails or the queue is closed and empty.
void run_queue(const std::shared_ptr<GlooQueue>& queue) {
  const at::NoGradGuard no_grad;
  std::unique_lock lock(queue->mutex);
  bool broken = false;
  while (!broken) {
    queue->changed.wait(lock, [&] { return queue->closed || !queue->items.empty(); });
    if (queue->items.empty()) break;
    const std::shared_ptr<GlooItem> item = queue->items.front();
    queue->items.pop_front();
    lock.unlock();
    const std::string error = run_item(queue->group, *item);
    lock.lock();
    if (queue->board == nullptr) return;
    broken = !error.empty();
    if (!broken) queue->board->end(item->number);
    queue->board->wake([&] {
      item->done = true;
      item->error = error;
    });
  }
  if (queue->board != nullptr) queue->board->wake([&] { queue->ended = true; });
}

class GlooPending final : public PendingCollective {
 public:
  GlooPending(RankWatch& watch, std::shared_ptr<GlooQueue> queue, std::shared_ptr<GlooItem> item)
      : watch_(watch), queue_(std::move(queue)), item_(std::move(item)) {}

  void wait() override {
    watch_.board().wait([&] { return item_->done || queue_->ended; });
    if (item_->done && item_->error.empty()) return;
    watch_.throw_reason_of(str(item_->name, ": ", item_->error.empty() ? "not begun" : item_->error));
  }

 private:
  RankWatch& watch_;
  std::shared_ptr<GlooQueue> queue_;
  std::shared_ptr<GlooItem> item_;
};

class GlooCollectives final : public Collectives {
 public:
  explicit GlooCollectives(RankGroup& ranks)
      : ranks_(ranks), queue_(std::make_shared<GlooQueue>(ranks)), thread_(run_queue, queue_) {}

  /// Lets collectives that have begun come to their end, unless the run has failed.
  ~GlooCollectives() override {
    {
      const std::lock_guard lock(queue_->mutex);
      queue_->closed = true;
    }
    queue_->changed.notify_all();
    bool ended = false;
    ranks_.watch()->board().pause(ranks_.watch()->limit(),
                                  [&](bool failed) { return (ended = queue_->ended) || failed; });
    if (ended) {
      thread_.join();
    } else {
      const std::lock_guard lock(queue_->mutex);
      queue_->board = nullptr;
      thread_.detach();
    }
  }

  at::Tensor allocate(int64_t count, const at::TensorOptions& options) override { return at::zeros({count}, options); }

  std::unique_ptr<PendingCollective> all_reduce(const at::Tensor& numbers, Reduction reduction) override {
    return begin("all_reduce", [=](GlooGroup& group) { group.all_reduce(numbers, reduction); });
  }
  std::unique_ptr<PendingCollective> reduce_scatter(const at::Tensor& output, const at::Tensor& input) override {
    return begin("reduce_scatter", [=](GlooGroup& group) { group.reduce_scatter(output, input); });
  }
  std::unique_ptr<PendingCollective> all_gather(const at::Tensor& output, const at::Tensor& input) override {
    return begin("all_gather", [=](GlooGroup& group) { group.all_gather(output, input); });
  }

 private:
  std::unique_ptr<PendingCollective> begin(const char* name, std::function<void(GlooGroup&)> run) {
    const auto item = std::make_shared<GlooItem>();
    item->name = name;
    item->run = std::move(run);
    {
      const std::lock_guard lock(queue_->mutex);
      item->number = ranks_.watch()->board().begin(name);
      queue_->items.push_back(item);
    }
    queue_->changed.notify_all();
    return std::make_unique<GlooPending>(*ranks_.watch(), queue_, item);
  }

  RankGroup& ranks_;
  std::shared_ptr<GlooQueue> queue_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<Collectives> make_gloo_collectives(RankGroup& ranks) {
  try {
    return std::make_unique<GlooCollectives>(ranks);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    ranks.watch()->throw_reason_of(str("cannot connect to the other ranks: ", first_line(e.what())));
  }
}

}  // namespace dga

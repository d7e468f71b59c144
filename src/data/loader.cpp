#include "data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "data/data_order.h"
#include "data/packer.h"
#include "data/token_store.h"
#include "util/error.h"
#include "util/log.h"

namespace dga {
namespace {

constexpr size_t kBatchesAhead = 4;

int32_t special_token(const char* name, bool wanted, const std::optional<int64_t>& configured, int32_t of_tokenizer,
                      int64_t vocab_size) {
  if (!wanted) return -1;
  const int64_t id = configured.value_or(of_tokenizer);
  if (id < 0) {
    fail(ExitCode::config, "data.", name, " is on, but there is no such token; set data.", name, "_id, or data.", name,
         ": false");
  }
  if (id >= vocab_size) {
    fail(ExitCode::config, "data.", name, ": token ", id, " is beyond the model's vocabulary of ", vocab_size);
  }
  return static_cast<int32_t>(id);
}

}  // namespace

/// Everything behind a Loader; replaced as a whole by restore().
class Loader::Worker {
 public:
  Worker(const DataConfig& config, std::shared_ptr<const Tokenizer> tokenizer, const LoaderOptions& options,
         const nlohmann::json* state);
  ~Worker();

  Batch next();
  bool wait(std::chrono::milliseconds limit);
  const nlohmann::json& state() const { return state_; }
  std::unique_ptr<Worker> restored(const nlohmann::json& state) const {
    return std::make_unique<Worker>(config_, tokenizer_, options_, &state);
  }

 private:
  struct Item {
    Batch batch;
    nlohmann::json state;
  };

  void restore(const nlohmann::json& state);
  void begin();
  bool is_ready() const { return !ready_.empty() || failure_; }
  void run();
  void skip_steps();
  nlohmann::json describe_place() const;

  const DataConfig config_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
  const LoaderOptions options_;
  nlohmann::json order_;
  TokenStore store_;
  std::unique_ptr<Packer> packer_;
  int64_t step_ = 1;                                  // the next one to be drawn
  nlohmann::json skipped_ = nlohmann::json::array();  // ranges that were applied
  nlohmann::json state_;                              // after the batch that next() returned last

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<Item> ready_;
  std::exception_ptr failure_;
  std::jthread thread_;  // begins with the first next() or wait()
};

Loader::Worker::Worker(const DataConfig& config, std::shared_ptr<const Tokenizer> tokenizer,
                       const LoaderOptions& options, const nlohmann::json* state)
    : config_(config), tokenizer_(std::move(tokenizer)), options_(options), store_(config, tokenizer_) {
  DGA_CHECK(options.rows > 0 && options.first_row >= 0 && options.first_row + options.rows <= options.global_batch_size,
            "rows ", options.first_row, " to ", options.first_row + options.rows, " of a global batch of ",
            options.global_batch_size);
  if (config.sources.empty()) fail(ExitCode::config, "data.sources is empty: there is nothing to train on");
  std::vector<std::vector<SourceFile>> files;
  for (const SourceConfig& source : config.sources) {
    files.push_back(list_files(source));
    for (const SourceFile& file : files.back()) store_.check(file);
  }
  const int64_t pieces = tokenizer_ ? tokenizer_->vocab_size() : 0;
  if (pieces > options.vocab_size) {
    fail(ExitCode::config, "the tokenizer has ", pieces, " pieces, more than the model's vocabulary of ",
         options.vocab_size);
  }
  PackerOptions packing;
  packing.seed = options.seed;
  packing.vocab_size = options.vocab_size;
  packing.bos_id =
      special_token("bos", config.bos, config.bos_id, tokenizer_ ? tokenizer_->bos_id() : -1, options.vocab_size);
  packing.eos_id =
      special_token("eos", config.eos, config.eos_id, tokenizer_ ? tokenizer_->eos_id() : -1, options.vocab_size);
  std::vector<std::unique_ptr<DocumentStream>> streams;
  for (size_t i = 0; i < files.size(); ++i) {
    streams.push_back(
        std::make_unique<DocumentStream>(config.sources[i], files[i], store_, options.seed, config.shuffle_tokens));
  }
  order_ = describe_order(config, files, tokenizer_.get(), options);
  packer_ = std::make_unique<Packer>(config, std::move(streams), packing);
  if (state) restore(*state);
  state_ = describe_place();
}

Loader::Worker::~Worker() {
  thread_.request_stop();
  store_.stop();
  if (thread_.joinable()) thread_.join();
  packer_.reset();
}

void Loader::Worker::restore(const nlohmann::json& state) {
  try {
    require_same_order(state.at("order"), order_);
    packer_->restore(state.at("place"));
    step_ = state.at("step");
    skipped_ = state.at("skipped");
  } catch (const nlohmann::json::exception& error) {
    store_.stop();  // nothing is left waiting
    fail(ExitCode::input, "the loader's state cannot be read: ", error.what());
  } catch (...) {
    store_.stop();
    throw;
  }
  for (const SkipRange& range : config_.skip) {
    const nlohmann::json pair = {range.from_step, range.to_step};
    if (range.from_step < step_ && std::find(skipped_.begin(), skipped_.end(), pair) == skipped_.end()) {
      log::warning("data.skip: steps ", range.from_step, " to ", range.to_step - 1, " begin before step ", step_,
                   ", where the run resumes, and are not left out");
    }
  }
}

nlohmann::json Loader::Worker::describe_place() const {
  return {{"order", order_}, {"step", step_}, {"skipped", skipped_}, {"place", packer_->state()}};
}

void Loader::Worker::skip_steps() {
  for (const SkipRange& range : config_.skip) {
    if (range.from_step != step_) continue;
    const int64_t steps = range.to_step - range.from_step;
    log::info("data.skip: left out ", steps, " batches before step ", step_);
    packer_->skip(steps * options_.global_batch_size);
    skipped_.push_back({range.from_step, range.to_step});
  }
}

void Loader::Worker::run() {
  const std::stop_token stop = thread_.get_stop_token();
  try {
    while (!stop.stop_requested()) {
      skip_steps();
      packer_->skip(options_.first_row);
      Batch batch = packer_->take(options_.rows);
      packer_->skip(options_.global_batch_size - options_.first_row - options_.rows);
      ++step_;
      Item item{std::move(batch), describe_place()};
      std::unique_lock lock(mutex_);
      changed_.wait(lock, stop, [this] { return ready_.size() < kBatchesAhead; });
      ready_.push_back(std::move(item));
      changed_.notify_all();
    }
  } catch (const Stopped&) {
  } catch (...) {
    const std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
    changed_.notify_all();
  }
}

/// Under the lock: starts the thread unless it runs.
void Loader::Worker::begin() {
  if (thread_.joinable()) return;
  // The thread reads its own handle only after this lock.
  thread_ = std::jthread([this] {
    { const std::lock_guard started(mutex_); }
    run();
  });
}

bool Loader::Worker::wait(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  begin();
  return changed_.wait_for(lock, limit, [this] { return is_ready(); });
}

Batch Loader::Worker::next() {
  std::unique_lock lock(mutex_);
  begin();
  changed_.wait(lock, [this] { return is_ready(); });
  if (ready_.empty()) std::rethrow_exception(failure_);
  Item item = std::move(ready_.front());
  ready_.pop_front();
  changed_.notify_all();
  state_ = std::move(item.state);
  return std::move(item.batch);
}

Loader::Loader(const DataConfig& config, std::shared_ptr<const Tokenizer> tokenizer, const LoaderOptions& options)
    : worker_(std::make_unique<Worker>(config, std::move(tokenizer), options, nullptr)) {}

Loader::~Loader() = default;

Batch Loader::next() { return worker_->next(); }

bool Loader::wait(std::chrono::milliseconds limit) { return worker_->wait(limit); }

nlohmann::json Loader::state() const { return worker_->state(); }

void Loader::restore(const nlohmann::json& state) { worker_ = worker_->restored(state); }

}  // namespace dga

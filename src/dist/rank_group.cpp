#include "dist/rank_group.h"

#include <algorithm>
#include <csignal>
#include <thread>

#include "util/error.h"

namespace dga {
namespace {

constexpr auto kFirstDelay = std::chrono::milliseconds(1), kLongestDelay = std::chrono::milliseconds(50);

}  // namespace

RankGroup::RankGroup(const LaunchEnvironment& place, const WatchTimes& times) : place_(place) {
  if (place.world_size == 1) {
    names_ = {"rank 0"};
    return;
  }
  // gloo writes to sockets; a rank whose peer is gone must learn it from an error, not end by a signal without a word.
  std::signal(SIGPIPE, SIG_IGN);
  store_ = SharedStore::open(place, times.meeting);
  watch_ = std::make_unique<RankWatch>(store_->connect_again(), place, times);
  names_ = watch_->meet();
}

RankGroup::~RankGroup() = default;

void RankGroup::set_step(int64_t step) {
  if (watch_) watch_->board().set_step(step);
}

void RankGroup::check() const {
  if (watch_) watch_->board().check();
}

void RankGroup::set_limit(std::chrono::seconds limit) {
  if (watch_) watch_->set_limit(limit);
}

void RankGroup::report_failure(const std::string& message) {
  if (watch_) watch_->report_failure(message);
}

std::vector<std::string> RankGroup::exchange(const std::string& topic, const std::string& text) {
  if (!watch_) return {text};
  {
    const std::lock_guard lock(topics_mutex_);
    DGA_CHECK(topics_.insert(topic).second, "exchange \"", topic, "\" was called twice");
  }
  std::vector<std::string> keys;
  for (int64_t rank = 0; rank < world_size(); ++rank) keys.push_back(str("exchange/", topic, "/", rank));
  check();
  try {
    store_->set(keys[static_cast<size_t>(rank())], text);
    wait_for_texts(topic, keys);
    return store_->get_all(keys);
  } catch (const Error& e) {
    if (e.code() == ExitCode::rank) throw;
    watch_->throw_reason_of(e.what());
  }
}

void RankGroup::wait_for_texts(const std::string& topic, const std::vector<std::string>& keys) {
  const auto begin = std::chrono::steady_clock::now();
  // Texts before failures: where all ranks find the same thing wrong with them, each says so itself.
  for (auto delay = kFirstDelay; !store_->has_all(keys); delay = std::min(2 * delay, kLongestDelay)) {
    check();
    watch_->board().pause(delay, [](bool failed) { return failed; });
    if (std::chrono::steady_clock::now() - begin < watch_->limit()) continue;
    if (store_->has_all(keys)) return;  // this process itself was stopped meanwhile
    std::string missing;
    for (int64_t rank = 0; rank < world_size(); ++rank) {
      if (!store_->has_all({keys[static_cast<size_t>(rank)]})) missing += (missing.empty() ? "" : ", ") + name_of(rank);
    }
    watch_->fail_run(str(name_of(rank()), " waits since ", watch_->limit().count(),
                         " s (parallel.timeout_seconds) for the exchange \"", topic, "\" at step ",
                         watch_->board().progress().step, "; missing: ", missing));
    check();
  }
}

}  // namespace dga

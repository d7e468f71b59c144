#include "dist/failure_board.h"

#include "util/error.h"

namespace dga {

void FailureBoard::set_step(int64_t step) {
  const std::lock_guard lock(mutex_);
  progress_.step = step;
}

FailureBoard::Progress FailureBoard::progress() const {
  const std::lock_guard lock(mutex_);
  return progress_;
}

int64_t FailureBoard::begin(const std::string& name) {
  const std::lock_guard lock(mutex_);
  check_locked();
  pending_[++progress_.begun] = name;
  return progress_.begun;
}

void FailureBoard::end(int64_t number) {
  const std::lock_guard lock(mutex_);
  pending_.erase(number);
  ++progress_.ended;
}

std::optional<FailureBoard::Collective> FailureBoard::oldest() const {
  const std::lock_guard lock(mutex_);
  if (pending_.empty()) return std::nullopt;
  return Collective{pending_.begin()->first, pending_.begin()->second};
}

void FailureBoard::set_failure(const std::string& text) {
  const std::lock_guard lock(mutex_);
  if (!failure_) failure_ = text;
  changed_.notify_all();
}

std::optional<std::string> FailureBoard::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void FailureBoard::check() const {
  const std::lock_guard lock(mutex_);
  check_locked();
}

void FailureBoard::check_locked() const {
  if (failure_) throw Error(*failure_, ExitCode::rank);
}

void FailureBoard::wait(const std::function<bool()>& done) const {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failure_ || done(); });
  if (!done()) check_locked();
}

void FailureBoard::pause(std::chrono::milliseconds limit, const std::function<bool(bool)>& done) const {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, limit, [&] { return done(failure_.has_value()); });
}

void FailureBoard::wake(const std::function<void()>& change) {
  const std::lock_guard lock(mutex_);
  change();
  changed_.notify_all();
}

}  // namespace dga

#include "dist/rank_watch.h"

#include <unistd.h>

#include <cstdlib>
#include <exception>

#include "dist/watch_state.h"
#include "util/error.h"

namespace dga {
namespace {

/// For the others to read a failure before the process that holds the store ends.
constexpr int kFarewellBeats = 6;

/// Writes to stderr without the locks of a logger, which the main thread may hold.
void write_error(const std::string& text) {
  const std::string line = "error: " + text + "\n";
  if (write(STDERR_FILENO, line.data(), line.size()) < 0) return;  // nobody reads it any more
}

void abort_collectives(const std::shared_ptr<WatchState>& state) {
  const std::lock_guard lock(state->hooks_mutex);
  if (state->hooks.abort) state->hooks.abort();
}

/// Gives the main thread time to end by itself; else ends the process.
void act_on_failure(const std::shared_ptr<WatchState>& state) {
  std::thread(abort_collectives, state).detach();  // may itself hang in the device
  const auto grace = state->own_failure ? state->times.own_grace : state->times.grace;
  state->board.pause(grace, [&](bool) { return state->closed; });
  bool closed = false;
  state->board.wake([&] { closed = state->closed; });
  if (closed) return;
  write_error(*state->board.failure());
  std::_Exit(static_cast<int>(ExitCode::rank));
}

}  // namespace

void run_guard(const std::shared_ptr<WatchState>& state) {
  int64_t last_beat = -1, silent = 0;
  while (true) {
    bool closed = false;
    state->board.pause(state->times.beat, [&](bool failed) { return (closed = state->closed) || failed; });
    if (closed) return;
    if (state->board.failure()) return act_on_failure(state);
    // In beats of this thread, not in time, as for the other ranks.
    const int64_t beat = state->beats;
    silent = beat == last_beat ? silent + 1 : 0;
    last_beat = beat;
    if (silent >= state->times.silent_beats) state->board.set_failure(state->store_lost_text());
  }
}

RankWatch::RankWatch(std::unique_ptr<SharedStore> store, const LaunchEnvironment& place, const WatchTimes& times)
    : state_(std::make_shared<WatchState>()), exceptions_(std::uncaught_exceptions()) {
  state_->store = std::move(store);
  state_->place = place;
  state_->times = times;
  beat_thread_ = std::thread(run_beats, state_);
  guard_thread_ = std::thread(run_guard, state_);
}

RankWatch::~RankWatch() {
  WatchState& s = *state_;
  if (std::uncaught_exceptions() > exceptions_) report_failure("an error has ended it");
  const bool failed = s.board.failure().has_value();
  s.board.wake([&] {
    if (!failed) s.mood = Mood::done;
  });
  const std::chrono::milliseconds farewell = s.times.beat * kFarewellBeats;
  if (s.place.rank == 0) {
    s.board.pause(failed ? farewell : std::chrono::milliseconds(limit()),
                  [&](bool failed_now) { return s.others_left || s.beat_ended || (failed_now && !failed); });
  }
  bool beat_ended = false;
  s.board.wake([&] { s.farewell = true; });
  s.board.pause(farewell, [&](bool) { return s.beat_ended; });
  s.board.wake([&] {
    s.closed = true;
    beat_ended = s.beat_ended;
  });
  guard_thread_.join();
  if (beat_ended) {
    beat_thread_.join();
  } else {
    beat_thread_.detach();  // hangs in a store that does not answer
  }
}

std::vector<std::string> RankWatch::meet() {
  std::vector<std::string> names;
  state_->board.wait([&] {
    names = state_->names;
    return !names.empty();
  });
  return names;
}

FailureBoard& RankWatch::board() { return state_->board; }

void RankWatch::set_limit(std::chrono::seconds limit) { state_->limit_seconds = limit.count(); }
std::chrono::seconds RankWatch::limit() const { return std::chrono::seconds(state_->limit_seconds); }

void RankWatch::set_hooks(WatchHooks hooks) {
  const std::lock_guard lock(state_->hooks_mutex);
  state_->hooks = std::move(hooks);
}

void RankWatch::fail_run(const std::string& text) {
  WatchState& s = *state_;
  s.board.wake([&] {
    if (s.to_publish.empty()) s.to_publish = text;
  });
  s.board.pause(s.times.beat * kFarewellBeats, [](bool failed) { return failed; });
  s.board.set_failure(text);
}

void RankWatch::report_failure(const std::string& message) {
  WatchState& s = *state_;
  if (s.board.failure()) return;
  s.own_failure = true;
  std::string name;
  s.board.wake(
      [&] { name = s.names.empty() ? str("rank ", s.place.rank) : s.names[static_cast<size_t>(s.place.rank)]; });
  fail_run(str(name, " failed at step ", s.board.progress().step, ": ", message));
}

void RankWatch::throw_reason_of(const std::string& what) {
  WatchState& s = *state_;
  s.board.wake([&] {
    if (s.mood == Mood::running) s.mood = Mood::doubting;
  });
  s.board.pause(s.times.beat * (s.times.silent_beats + kFarewellBeats), [](bool failed) { return failed; });
  report_failure(what);
  s.board.check();
  throw Error(what, ExitCode::rank);  // not reached: there is a failure now
}

}  // namespace dga

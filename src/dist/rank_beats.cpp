#include <unistd.h>

#include <exception>
#include <sstream>

#include "dist/watch_state.h"
#include "util/error.h"
#include "util/process.h"

namespace dga {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kFailureKey = "failure";
constexpr int64_t kExtraBeats = 4;
constexpr auto kQuickBeat = std::chrono::milliseconds(50);

std::string sign_key(int64_t rank) { return str("sign/", rank); }
std::string arrival_key(int64_t rank) { return str("arrived/", rank); }

std::vector<std::string> keys_of_all(const WatchState& state, std::string (*key)(int64_t)) {
  std::vector<std::string> keys;
  for (int64_t rank = 0; rank < state.place.world_size; ++rank) keys.push_back(key(rank));
  return keys;
}

class Beats {
 public:
  explicit Beats(WatchState& state) : s_(state), seen_(static_cast<size_t>(state.place.world_size)) {}

  void arrive() {
    s_.store->set(sign_key(s_.place.rank), RankSign().text());
    const std::string self =
        str("rank ", s_.place.rank, " (", host_name(), ", process ", getpid(), ") of ", s_.place.world_size);
    const std::string first = s_.store->set_first(arrival_key(s_.place.rank), self);
    if (first != self) publish(str("two processes have come as the same rank: ", first, " and ", self));
  }

  /// One round; returns whether it was the last.
  bool beat() {
    const bool last = write_sign();
    if (const auto reported = s_.store->find(kFailureKey)) s_.board.set_failure(*reported);
    if (last) return true;
    if (met_) {
      const bool is_beat = Clock::now() - last_look_ >= s_.times.beat * 9 / 10;  // or was woken early
      if (is_beat) last_look_ = Clock::now();
      look_at_ranks(is_beat);
      if (is_beat) look_at_collectives();
    } else {
      look_for_arrivals();
    }
    return false;
  }

  /// Beats are quick at the beginning and the end of a run, where ranks wait for each other's.
  void pause() const {
    const bool ending = sign_.mood == Mood::done || sign_.mood == Mood::failed;
    s_.board.pause(ending || !met_ ? kQuickBeat : s_.times.beat, [&](bool failed) {
      const bool must_publish = !s_.to_publish.empty() && !failed;
      const bool must_tell = !ending && (failed || s_.mood == Mood::done);
      return s_.farewell || must_publish || must_tell;
    });
  }

 private:
  struct Seen {
    RankSign sign;
    int64_t silent = 0;  // looks at which the sign was still the same
  };

  void publish(const std::string& text) { s_.board.set_failure(s_.store->set_first(kFailureKey, text)); }

  bool write_sign() {
    bool last = false;
    std::string failure;
    const bool failed = s_.board.failure().has_value();
    s_.board.wake([&] {
      last = s_.farewell;
      failure = s_.to_publish;
      sign_.mood = failed && s_.mood != Mood::done ? Mood::failed : s_.mood;
    });
    if (!failure.empty() && !failed) publish(failure);
    sign_.beat = ++s_.beats;
    sign_.progress = s_.board.progress();
    s_.store->set(sign_key(s_.place.rank), sign_.text());
    return last;
  }

  void look_for_arrivals() {
    const std::vector<std::string> keys = keys_of_all(s_, arrival_key);
    if (s_.store->has_all(keys)) {
      std::vector<std::string> names;
      for (const std::string& arrival : s_.store->get_all(keys)) {
        const size_t end = arrival.rfind(" of ");
        names.push_back(arrival.substr(0, end));
        if (arrival.substr(end + 4) == std::to_string(s_.place.world_size)) continue;
        publish(str("the ranks were started with different world sizes: ", arrival, ", rank ", s_.place.rank, " of ",
                    s_.place.world_size));
        return;
      }
      s_.board.wake([&] { s_.names = std::move(names); });
      met_ = true;
    } else if (Clock::now() - begin_ > s_.times.meeting) {
      std::string missing;
      for (int64_t rank = 0; rank < s_.place.world_size; ++rank) {
        if (!s_.store->has_all({arrival_key(rank)})) missing += str(missing.empty() ? "" : ", ", rank);
      }
      publish(str("of ", s_.place.world_size, " ranks these have not come to ", s_.place.master_address, ":",
                  s_.place.master_port, " within ",
                  std::chrono::duration_cast<std::chrono::seconds>(s_.times.meeting).count(), " s: ", missing,
                  "; see whether they run and have the same MASTER_ADDR, MASTER_PORT and number of ranks"));
    }
  }

  /// Silence is counted in beats of this thread, not in time, so that a process that was itself stopped and goes on
  /// does not take the others for silent; so are the waits for collectives.
  void look_at_ranks(bool is_beat) {
    std::vector<std::string> keys = keys_of_all(s_, sign_key);
    if (s_.place.rank != 0) keys.resize(1);
    const std::vector<std::string> signs = s_.store->get_all(keys);
    bool doubt = sign_.mood == Mood::doubting;
    for (size_t rank = 0; rank < signs.size(); ++rank) {
      Seen& seen = seen_[rank];
      const RankSign sign = RankSign::parse(signs[rank]);
      seen.silent = sign.beat == seen.sign.beat ? seen.silent + (is_beat ? 1 : 0) : 0;
      seen.sign = sign;
      doubt = doubt || sign.mood == Mood::doubting;
    }
    s_.first_step = seen_[0].sign.progress.step;
    judge(signs.size(), doubt ? s_.times.doubted_beats : s_.times.silent_beats);
  }

  void judge(size_t watched, int64_t limit) {
    bool others_left = true;
    for (size_t rank = 0; rank < watched; ++rank) {
      const Seen& seen = seen_[rank];
      if (static_cast<int64_t>(rank) == s_.place.rank) continue;
      const bool left = seen.sign.mood == Mood::failed || seen.sign.mood == Mood::done;
      others_left = others_left && (left || seen.silent >= s_.times.doubted_beats);
      if (left || seen.silent < limit) continue;
      const auto silent = std::chrono::duration_cast<std::chrono::seconds>(s_.times.beat * seen.silent).count();
      publish(str(s_.names[rank], " is gone: no sign of life for ", silent, " s; the last was at step ",
                  seen.sign.progress.step));
    }
    s_.board.wake([&] { s_.others_left = others_left; });
  }

  /// Asks the device. A broken connection mostly has a reason that the watch will find: a rank that is gone.
  void poll_device() {
    const std::unique_lock lock(s_.hooks_mutex, std::try_to_lock);
    if (!lock.owns_lock() || !s_.hooks.poll || s_.board.failure()) return;
    const std::string problem = s_.hooks.poll();
    if (problem.empty()) return;
    if (++problem_beats_ > s_.times.doubted_beats + kExtraBeats) {
      publish(str(s_.names[static_cast<size_t>(s_.place.rank)], " failed at step ", s_.board.progress().step, ": ",
                  problem));
    }
    s_.board.wake([&] {
      if (s_.mood == Mood::running) s_.mood = Mood::doubting;
    });
  }

  void look_at_collectives() {
    poll_device();
    const auto oldest = s_.board.oldest();
    waited_ = oldest && oldest->number == oldest_ ? waited_ + s_.times.beat : std::chrono::milliseconds(0);
    oldest_ = oldest ? oldest->number : 0;
    const std::chrono::seconds limit(s_.limit_seconds);
    if (oldest && waited_ >= limit && !s_.board.failure()) publish(lateness_text(*oldest, limit));
  }

  std::string lateness_text(const FailureBoard::Collective& oldest, std::chrono::seconds limit) {
    std::string behind;
    const std::vector<std::string> signs = s_.store->get_all(keys_of_all(s_, sign_key));
    for (size_t rank = 0; rank < signs.size(); ++rank) {
      const RankSign sign = RankSign::parse(signs[rank]);
      if (sign.progress.begun >= oldest.number) continue;
      behind += str(behind.empty() ? "" : ", ", s_.names[rank], sign.mood == Mood::done ? " has ended" : " is",
                    " at step ", sign.progress.step, " with ", sign.progress.begun, " begun");
    }
    return str(s_.names[static_cast<size_t>(s_.place.rank)], " waits at step ", s_.board.progress().step, " since ",
               limit.count(), " s (parallel.timeout_seconds) for ", oldest.name, ", collective ", oldest.number,
               behind.empty() ? "; all ranks have begun it" : "; behind: " + behind);
  }

  WatchState& s_;
  RankSign sign_;
  std::vector<Seen> seen_;
  int64_t problem_beats_ = 0;
  int64_t oldest_ = 0;  // number of the oldest collective under way
  std::chrono::milliseconds waited_{0};
  bool met_ = false;
  const Clock::time_point begin_ = Clock::now();
  Clock::time_point last_look_;
};

}  // namespace

std::string RankSign::text() const {
  return str(beat, " ", progress.step, " ", progress.begun, " ", progress.ended, " ", static_cast<int>(mood));
}

RankSign RankSign::parse(const std::string& text) {
  std::istringstream in(text);
  RankSign sign;
  int mood = 0;
  in >> sign.beat >> sign.progress.step >> sign.progress.begun >> sign.progress.ended >> mood;
  sign.mood = static_cast<Mood>(mood);
  return sign;
}

std::string WatchState::store_lost_text() {
  std::string first = "rank 0";
  board.wake([&] {
    if (!names.empty()) first = names[0];
  });
  const std::string address = str(place.master_address, ":", place.master_port);
  if (place.store_of_launcher) return str("the launcher's store at ", address, " does not answer");
  return str(first, " is gone: no answer from ", address, "; its last sign of life was at step ", first_step.load());
}

void run_beats(const std::shared_ptr<WatchState>& state) {
  try {
    Beats beats(*state);
    beats.arrive();
    while (!beats.beat()) beats.pause();
  } catch (const std::exception&) {
    state->board.set_failure(state->store_lost_text());
  }
  state->board.wake([&] { state->beat_ended = true; });
}

}  // namespace dga

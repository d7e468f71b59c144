#include "sweep/runner.h"

#include <signal.h>

#include <chrono>
#include <deque>
#include <list>
#include <optional>
#include <thread>

#include "sweep/point_state.h"
#include "sweep/table.h"
#include "util/file.h"
#include "util/folder_lock.h"
#include "util/log.h"
#include "util/process.h"
#include "util/signals.h"
#include "util/timer.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

constexpr auto kPollInterval = std::chrono::milliseconds(50);
constexpr const char* kConsole = "console.log";

/// The last error that the console reports from byte `begin` on; empty where there is none.
std::string last_error(const fs::path& console, size_t begin) {
  constexpr std::string_view kMark = "error: ";
  const std::string text = read_file(console);
  const size_t at = text.rfind(kMark);
  if (at == std::string::npos || at < begin) return "";
  const size_t first = at + kMark.size();
  return text.substr(first, text.find('\n', first) - first);
}

PointStatus status_of(int exit_code) {
  if (exit_code == static_cast<int>(ExitCode::ok)) return PointStatus::finished;
  const bool stopped = exit_code == static_cast<int>(ExitCode::interrupted) ||
                       exit_code == static_cast<int>(ExitCode::terminated) || exit_code == -SIGTERM ||
                       exit_code == -SIGINT;
  return stopped ? PointStatus::interrupted : PointStatus::failed;
}

class Runner {
 public:
  Runner(const SweepPlan& plan, const SweepOptions& options) : plan_(plan), options_(options) {
    make_places();
    for (size_t i = 0; i < plan.points.size(); ++i) {
      if (options.share.has(static_cast<int64_t>(i)) && is_due(plan.points[i])) due_.push_back(i);
    }
    log::info("sweep ", plan.name, ": ", plan.points.size(), " points, ", due_.size(),
              options.share.count > 1 ? " of them to run by this process, " : " of them to run, ", free_.size(),
              " at a time; folder ", plan.folder.string());
  }

  void run() {
    bool stopping = false;
    while (!active_.empty() || (!due_.empty() && !stopping)) {
      if (const int signal = stop_signal(); signal != 0 && !stopping) {
        stopping = true;
        log::info("stopping ", active_.size(), " running points, which save first; the same command goes on");
        for (const Active& active : active_) active.process.send(signal);
      }
      while (!stopping && !due_.empty() && !free_.empty()) start();
      collect();
      std::this_thread::sleep_for(kPollInterval);
    }
  }

 private:
  struct Active {
    size_t index;
    std::string gpu;
    size_t console_begin;  // bytes of console.log before this start
    ChildProcess process;
    PointState state;
    Timer timer;
  };

  /// Places for points: as many GPUs as a point takes, or one place without GPUs.
  void make_places() {
    const auto needed = static_cast<size_t>(plan_.gpus_per_point);
    if (options_.gpus.empty() && needed == 1) free_.emplace_back();
    for (size_t first = 0; first + needed <= options_.gpus.size(); first += needed) {
      std::string names = options_.gpus[first];
      for (size_t i = 1; i < needed; ++i) names += "," + options_.gpus[first + i];
      free_.push_back(names);
    }
    if (free_.empty()) {
      fail(ExitCode::config, "gpus_per_point: ", needed, ", but this process has ", options_.gpus.size(), " GPUs");
    }
  }

  void start() {
    const size_t index = due_.front();
    const SweepPoint& point = plan_.points[index];
    due_.pop_front();
    write_config(point);
    PointState state = read_point_state(point.folder);
    state.status = PointStatus::running;
    state.config_hash = point.config_hash;
    ++state.starts;
    write_point_state(point.folder, state);
    const fs::path console = point.folder / kConsole;
    const size_t begin = fs::exists(console) ? fs::file_size(console) : 0;
    std::vector<std::string> environment;
    // A point is a run of its own, not one of the processes that run the sweep.
    if (options_.share.count > 1) environment = {"RANK=0", "WORLD_SIZE=1"};
    if (!free_.front().empty()) environment.push_back("CUDA_VISIBLE_DEVICES=" + free_.front());
    log::info(label(index), "starts", free_.front().empty() ? "" : str(" on GPU ", free_.front()));
    ChildProcess process(words(point), environment, console);
    active_.push_back({index, free_.front(), begin, std::move(process), state, Timer()});
    free_.pop_front();
  }

  void write_config(const SweepPoint& point) const {
    fs::create_directories(point.folder);
    write_file_atomic(point.config_file(), point.yaml);
    // Training leaves a config in the run folder; an evaluation makes no run folder, and the page needs one.
    if (plan_.job == SweepJob::eval) write_file_atomic(point.folder / "config.yaml", point.yaml);
  }

  /// The command line of a point.
  std::vector<std::string> words(const SweepPoint& point) const {
    const bool trains = plan_.job == SweepJob::train;
    std::vector<std::string> words = {options_.program.string(), trains ? "train" : "eval",
                                      point.config_file().string()};
    if (plan_.gpus_per_point > 1) words.insert(words.end(), {"--gpus", std::to_string(plan_.gpus_per_point)});
    if (trains) {
      words.emplace_back("--resume");
      return words;
    }
    words.insert(words.end(), {"--output", (point.folder / "eval" / "result.json").string()});
    for (const std::string& assignment : point.model_assignments) words.insert(words.end(), {"--set", assignment});
    return words;
  }

  void collect() {
    for (auto it = active_.begin(); it != active_.end();) {
      const std::optional<int> code = it->process.exit_code();
      if (!code) {
        ++it;
        continue;
      }
      end(*it, *code);
      free_.push_back(it->gpu);
      it = active_.erase(it);
      if (options_.share.index == 0) write_sweep_results(plan_);
    }
  }

  void end(Active& active, int code) {
    const SweepPoint& point = plan_.points[active.index];
    PointState& state = active.state;
    state.status = status_of(code);
    state.exit_code = code;
    state.seconds += active.timer.seconds();
    state.error.clear();
    if (state.status == PointStatus::failed) {
      state.error = last_error(point.folder / kConsole, active.console_begin);
      if (state.error.empty()) state.error = code < 0 ? str("ended by signal ", -code) : str("exit code ", code);
      log::error(label(active.index), "failed: ", state.error, "; see ", (point.folder / kConsole).string());
    } else {
      log::info(label(active.index), config::name_of(state.status), " after ", active.timer.seconds(), " s");
    }
    write_point_state(point.folder, state);
  }

  std::string label(size_t index) const {
    return str("point ", index + 1, "/", plan_.points.size(), " ", plan_.points[index].name, ": ");
  }

  const SweepPlan& plan_;
  const SweepOptions& options_;
  std::deque<size_t> due_;
  std::deque<std::string> free_;  // GPUs without a point, "0,1" where it takes two; "" for the one place without GPUs
  std::list<Active> active_;
};

}  // namespace

bool is_due(const SweepPoint& point) { return current_state(point).status != PointStatus::finished; }

ExitCode run_sweep(const SweepPlan& plan, const SweepOptions& options) {
  install_stop_signals();
  std::optional<FolderLock> lock;
  options.on_first("sweep/begin", [&] {
    lock.emplace(plan.folder, str("folder: another process runs the sweep in ", plan.folder.string()));
  });
  Runner(plan, options).run();
  options.on_first("sweep/end", [&] { write_sweep_results(plan); });
  if (const int signal = stop_signal(); signal != 0) return stop_code(signal);
  for (size_t i = 0; i < plan.points.size(); ++i) {
    const bool counts = options.share.index == 0 || options.share.has(static_cast<int64_t>(i));
    if (counts && is_due(plan.points[i])) return ExitCode::failure;
  }
  return ExitCode::ok;
}

}  // namespace dga

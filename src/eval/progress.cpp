#include "eval/progress.h"

#include <utility>

#include "dist/together.h"
#include "util/error.h"
#include "util/file.h"
#include "util/log.h"
#include "util/signals.h"

namespace dga {

namespace {

/// The state in the file; null where there is none of this evaluation.
nlohmann::json read_state(const std::filesystem::path& file, const std::string& key) {
  if (!std::filesystem::exists(file)) return nullptr;
  nlohmann::json found = nlohmann::json::parse(read_file(file), nullptr, /*allow_exceptions=*/false);
  if (!found.is_object() || found.value("key", "") != key) {
    log::warning(file.string(), " is of another evaluation; starting from the beginning");
    return nullptr;
  }
  log::info("going on from ", file.string());
  return found.at("state");
}

}  // namespace

EvalProgress::EvalProgress(std::filesystem::path file, std::string key, Communicator& ranks, double interval_seconds)
    : file_(std::move(file)), key_(std::move(key)), writes_(ranks.is_first()), interval_seconds_(interval_seconds) {
  const std::vector<std::string> states =
      run_together(ranks, "eval/progress", [&] { return writes_ ? read_state(file_, key_).dump() : std::string(); });
  earlier_ = nlohmann::json::parse(states.front());
}

void EvalProgress::after_round(int signal, const std::function<nlohmann::json()>& state) {
  if (!file_.empty() && writes_ && (signal != 0 || since_save_.seconds() >= interval_seconds_)) {
    write_file_atomic(file_, nlohmann::json{{"key", key_}, {"state", state()}}.dump());
    since_save_.restart();
  }
  if (signal == 0) return;
  fail(stop_code(signal), "stopped by ", stop_name(signal),
       file_.empty() ? "" : "; the same command goes on from " + file_.string());
}

void EvalProgress::finish() const {
  if (writes_) std::filesystem::remove(file_);
}

}  // namespace dga

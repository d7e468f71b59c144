#include "eval/progress.h"

#include <csignal>

#include "util/error.h"
#include "util/file.h"
#include "util/log.h"
#include "util/signals.h"

namespace dga {

EvalProgress::EvalProgress(std::filesystem::path file, std::string key, double interval_seconds)
    : file_(std::move(file)), key_(std::move(key)), interval_seconds_(interval_seconds) {
  if (!std::filesystem::exists(file_)) return;
  nlohmann::json found = nlohmann::json::parse(read_file(file_), nullptr, /*allow_exceptions=*/false);
  if (!found.is_object() || found.value("key", "") != key_) {
    log::warning(file_.string(), " is of another evaluation; starting from the beginning");
    return;
  }
  earlier_ = found.at("state");
  log::info("going on from ", file_.string());
}

bool EvalProgress::is_due() const {
  return !file_.empty() && (stop_signal() != 0 || since_save_.seconds() >= interval_seconds_);
}

void EvalProgress::save(nlohmann::json state) {
  write_file_atomic(file_, nlohmann::json{{"key", key_}, {"state", std::move(state)}}.dump());
  since_save_.restart();
  const int signal = stop_signal();
  if (signal == 0) return;
  fail(signal == SIGINT ? ExitCode::interrupted : ExitCode::terminated, "stopped by ",
       signal == SIGINT ? "SIGINT" : "SIGTERM", "; the same command goes on from ", file_.string());
}

void EvalProgress::finish() const {
  if (!file_.empty()) std::filesystem::remove(file_);
}

}  // namespace dga

#include "train/step_log.h"

#include "util/error.h"
#include "util/log.h"

namespace dga {

StepLog::StepLog(const RunConfig& config, const std::filesystem::path& run_folder, int64_t metrics_bytes,
                 int64_t first_step, std::optional<double> peak)
    : steps_(config.train.steps),
      every_steps_(config.log.every_steps),
      first_step_(first_step),
      peak_(peak),
      metrics_(run_folder / "metrics.jsonl", metrics_bytes) {
  if (config.log.tensorboard) tensorboard_.emplace(run_folder / "tensorboard", first_step);
}

void StepLog::add(const StepRecord& record) {
  const nlohmann::json line = metrics_line(record, peak_);
  metrics_.append(line);
  write_events(line);
  interval_.add(record);
  const auto done = static_cast<double>(record.step - first_step_);
  const auto left = static_cast<double>(steps_ - record.step);
  const Progress progress{steps_, since_start_.seconds() / done * left};
  const bool last = record.step == steps_;
  if (last || (every_steps_ > 0 && record.step % every_steps_ == 0)) {
    log::info(console_line(record, interval_, progress, peak_));
    interval_ = {};
  }
  log::show_status(last ? "" : status_bar(record, progress));
}

void StepLog::write_events(const nlohmann::json& line) {
  if (!tensorboard_) return;
  try {
    tensorboard_->append(line);
  } catch (const Error& error) {  // half of an event ends its file for every reader
    log::warning(error.what(), "; no more events are written for TensorBoard");
    tensorboard_.reset();
  }
}

}  // namespace dga

#include "train/tensorboard_log.h"

#include <chrono>
#include <nlohmann/json.hpp>

#include "util/error.h"
#include "util/process.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// Cuts the files of earlier starts and returns the path of a new one; names sort in the order of the starts.
fs::path next_file(const fs::path& folder, int64_t last_step) {
  fs::create_directories(folder);
  int64_t starts = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename().string().find("tfevents") == std::string::npos) continue;
    cut_event_file(entry.path(), last_step);
    ++starts;
  }
  return folder / str("events.out.tfevents.", static_cast<int64_t>(now_seconds()), ".", host_name(), ".", starts);
}

}  // namespace

TensorboardLog::TensorboardLog(const fs::path& folder, int64_t last_step)
    : file_(next_file(folder, last_step), now_seconds(), last_step + 1) {}

void TensorboardLog::append(const nlohmann::json& line) {
  ScalarEvent event{now_seconds(), line.at("step").get<int64_t>(), {}};
  for (const auto& [name, value] : line.items()) {
    if (name != "step" && value.is_number()) event.values.emplace_back("train/" + name, value.get<float>());
  }
  if (const auto evaluation = line.find("eval"); evaluation != line.end()) {
    for (const nlohmann::json& result : *evaluation) {
      const int64_t length = result.at("context_length").get<int64_t>();
      for (const char* name : {"nll", "perplexity"}) {
        event.values.emplace_back(str("eval/", name, "_", length), result.at(name).get<float>());
      }
    }
  }
  file_.write(event);
}

}  // namespace dga

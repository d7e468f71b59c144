#include "run/run_folder.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <chrono>
#include <ctime>
#include <nlohmann/json.hpp>
#include <thread>

#include "config/load.h"
#include "run/build_info.h"
#include "util/file.h"

namespace dga {
namespace {

std::string utc_now() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

nlohmann::json host() {
  utsname names{};
  DGA_CHECK(uname(&names) == 0, "uname failed");
  return {{"name", names.nodename},
          {"system", str(names.sysname, " ", names.release, " ", names.machine)},
          {"cpu_threads", std::thread::hardware_concurrency()}};
}

nlohmann::json read_starts(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file)) return nlohmann::json::array();
  const nlohmann::json document = nlohmann::json::parse(read_file(file), nullptr, /*allow_exceptions=*/false);
  DGA_CHECK_INPUT(document.is_object() && document.contains("starts") && document["starts"].is_array(), file.string(),
                  ": not the provenance of a run; move it away to go on");
  return document["starts"];
}

bool holds_run(const std::filesystem::path& folder) {
  const std::filesystem::path checkpoints = folder / "checkpoints";
  const bool has_checkpoints = std::filesystem::is_directory(checkpoints) && !std::filesystem::is_empty(checkpoints);
  return has_checkpoints || std::filesystem::exists(folder / "metrics.jsonl");
}

}  // namespace

nlohmann::json provenance(const LoadedRun& run, const std::vector<std::string>& command_line) {
  const BuildInfo& build = build_info();
  return {{"time", utc_now()},
          {"config_hash", run.hash},
          {"version", build.version},
          {"commit", build.commit},
          {"build",
           {{"type", build.build_type},
            {"compiler", build.compiler},
            {"cuda", build.cuda},
            {"cuda_architectures", build.cuda_architectures}}},
          {"libraries", build.libraries},
          {"host", host()},
          {"working_directory", std::filesystem::current_path().string()},
          {"command_line", command_line}};
}

std::filesystem::path create_run_folder(const LoadedRun& run, const std::vector<std::string>& command_line,
                                        RunStart start) {
  const std::filesystem::path folder = run.config.run.path();
  if (start == RunStart::fresh && holds_run(folder)) {
    fail(ExitCode::config, "run.folder: ", folder.string(),
         " holds a run already; continue it with --resume, or choose another run.name or run.folder");
  }
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  DGA_CHECK(!error, "cannot create ", folder.string(), ": ", error.message());

  const std::filesystem::path provenance_file = folder / "provenance.json", config_file = folder / "config.yaml";
  nlohmann::json starts = start == RunStart::resume ? read_starts(provenance_file) : nlohmann::json::array();
  if (!starts.empty() && std::filesystem::exists(config_file)) {
    const std::string earlier = starts.back().value("config_hash", "");
    if (earlier != run.hash) rename_synced(config_file, folder / str("config-", earlier, ".yaml"));
  }
  starts.push_back(provenance(run, command_line));
  write_file_atomic(config_file, run.resolved_yaml);
  write_file_atomic(provenance_file, nlohmann::json{{"starts", starts}}.dump(2) + "\n");
  return folder;
}

}  // namespace dga

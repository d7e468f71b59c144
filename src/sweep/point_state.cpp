#include "sweep/point_state.h"

#include <nlohmann/json.hpp>

#include "util/error.h"
#include "util/file.h"

namespace dga {
namespace {

constexpr const char* kFile = "point.json";

PointStatus status_of(const std::string& name) {
  if (const auto status = config::value_named<PointStatus>(name)) return *status;
  fail(ExitCode::input, "\"", name, "\" is no status of a point");
}

}  // namespace

PointState read_point_state(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / kFile;
  PointState state;
  if (!std::filesystem::exists(file)) return state;
  try {
    const nlohmann::json json = nlohmann::json::parse(read_file(file));
    state.status = status_of(json.at("status").get<std::string>());
    json.at("config_hash").get_to(state.config_hash);
    json.at("exit_code").get_to(state.exit_code);
    json.at("error").get_to(state.error);
    json.at("starts").get_to(state.starts);
    json.at("seconds").get_to(state.seconds);
  } catch (const std::exception& error) {
    fail(ExitCode::input, file.string(), " is not the state of a sweep's point: ", error.what(),
         "; remove the file to run the point again");
  }
  return state;
}

PointState current_state(const SweepPoint& point) {
  PointState state = read_point_state(point.folder);
  const bool started = state.status != PointStatus::pending;
  if (started && state.config_hash != point.config_hash) state.status = PointStatus::changed;
  return state;
}

void write_point_state(const std::filesystem::path& folder, const PointState& state) {
  const nlohmann::json json = {{"status", config::name_of(state.status)},
                               {"config_hash", state.config_hash},
                               {"exit_code", state.exit_code},
                               {"error", state.error},
                               {"starts", state.starts},
                               {"seconds", state.seconds}};
  write_file_atomic(folder / kFile, json.dump(2) + "\n");
}

}  // namespace dga

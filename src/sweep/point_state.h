#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "config/fields.h"
#include "sweep/plan.h"

namespace dga {

/// How a point stands. `running` on disk without a process means that the sweep was killed; `changed` is never on disk.
enum class PointStatus { pending, running, finished, failed, interrupted, changed };
inline auto enum_names(PointStatus) {
  return config::names<PointStatus>({{PointStatus::pending, "pending"},
                                     {PointStatus::running, "running"},
                                     {PointStatus::finished, "finished"},
                                     {PointStatus::failed, "failed"},
                                     {PointStatus::interrupted, "interrupted"},
                                     {PointStatus::changed, "changed"}});
}

/// The file point.json of a point's run folder.
struct PointState {
  PointStatus status = PointStatus::pending;
  std::string config_hash;  // that it was last started with
  int exit_code = 0;        // of the last start that ended; minus the signal that ended it
  std::string error;        // what a failed point said last
  int64_t starts = 0;
  double seconds = 0;  // of all starts
};

/// pending where there is none. Throws an input error for a file that is no such state.
PointState read_point_state(const std::filesystem::path& folder);
/// The same for a point of a plan: `changed` where the point was last started with another config than it has now.
PointState current_state(const SweepPoint& point);
void write_point_state(const std::filesystem::path& folder, const PointState& state);

}  // namespace dga

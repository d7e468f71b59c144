#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "dist/communicator.h"
#include "dist/launch_environment.h"
#include "dist/rank_watch.h"

namespace dga {

/// The processes of a run from their meeting to their end, beneath the communicator: what they are called, texts that
/// they exchange, and what becomes of the others when one fails. A group of one process does nothing of this.
class RankGroup {
 public:
  /// Waits for all ranks; from then on the process ignores SIGPIPE. Throws a config error naming address, port and
  /// missing ranks.
  explicit RankGroup(const LaunchEnvironment& place, const WatchTimes& times = {});
  /// An end without report_failure() counts as a good one, unless an exception is on its way.
  ~RankGroup();

  const LaunchEnvironment& place() const { return place_; }
  int64_t rank() const { return place_.rank; }
  int64_t world_size() const { return place_.world_size; }
  bool is_first() const { return place_.rank == 0; }
  /// "rank 1 (host, process 17)".
  const std::string& name_of(int64_t rank) const { return names_[static_cast<size_t>(rank)]; }

  /// See Communicator.
  std::vector<std::string> exchange(const std::string& topic, const std::string& text);
  void set_step(int64_t step);
  /// Throws what ended the run, if something has.
  void check() const;
  /// How long a collective or an exchange may take: parallel.timeout_seconds once the config is read.
  void set_limit(std::chrono::seconds limit);
  /// Tells the other ranks that this one fails with `message`, which they end with.
  void report_failure(const std::string& message);

  /// Null for one process.
  RankWatch* watch() { return watch_.get(); }
  SharedStore& store() { return *store_; }

 private:
  void wait_for_texts(const std::string& topic, const std::vector<std::string>& keys);

  LaunchEnvironment place_;
  std::vector<std::string> names_;
  std::unique_ptr<SharedStore> store_;  // a connection beside the watch's
  std::mutex topics_mutex_;
  std::set<std::string> topics_;
  std::unique_ptr<RankWatch> watch_;
};

/// The communicator of these ranks, for tensors of a GPU by NCCL and of the CPU by gloo; the first collective connects
/// the ranks. `ranks` must outlive it.
std::unique_ptr<Communicator> make_communicator(RankGroup& ranks);

}  // namespace dga

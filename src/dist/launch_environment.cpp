#include "dist/launch_environment.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "util/error.h"

namespace dga {
namespace {

/// Ports for launchers that give none: below those that Linux hands out to outgoing connections.
constexpr int64_t kFirstPort = 12000, kPorts = 16000;
constexpr int64_t kHighestPort = 65535;

std::optional<int64_t> parse(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// The variables of one launcher.
class Variables {
 public:
  Variables(const VariableLookup& lookup, std::string launcher) : lookup_(lookup), launcher_(std::move(launcher)) {}

  std::optional<std::string> find(const std::string& name) const { return lookup_(name); }

  std::string text(const std::string& name) const {
    const auto value = lookup_(name);
    if (!value) fail(ExitCode::config, name, ": not set, though ", launcher_);
    return *value;
  }

  /// In [low, high]; `bound` says what sets the upper end.
  int64_t number(const std::string& name, int64_t low, int64_t high, const std::string& bound) const {
    const std::string value = text(name);
    const auto parsed = parse(value);
    if (!parsed || *parsed < low || *parsed > high) {
      fail(ExitCode::config, name, ": is ", value, "; must be a whole number from ", low, " to ", high, bound);
    }
    return *parsed;
  }

  int64_t count(const std::string& name) const { return number(name, 1, 1 << 20, ""); }
  int64_t port(const std::string& name) const { return number(name, 1, kHighestPort, ""); }

  /// Rank and size of the world, and of this host.
  void read_ranks(LaunchEnvironment& place, const std::string& rank, const std::string& size) const {
    place.world_size = count(size);
    place.rank = number(rank, 0, place.world_size - 1, str(" (", size, " is ", place.world_size, ")"));
  }
  void read_local_ranks(LaunchEnvironment& place, const std::string& rank, const std::string& size) const {
    place.local_world_size = number(size, 1, place.world_size, str(", the number of all ranks"));
    place.local_rank =
        number(rank, 0, place.local_world_size - 1, str(" (", size, " is ", place.local_world_size, ")"));
  }

 private:
  const VariableLookup& lookup_;
  std::string launcher_;
};

LaunchEnvironment from_torchrun(const VariableLookup& lookup) {
  const Variables variables(lookup, lookup("RANK") ? "RANK is" : "WORLD_SIZE is");
  LaunchEnvironment place;
  variables.read_ranks(place, "RANK", "WORLD_SIZE");
  if (place.world_size == 1) return place;
  variables.read_local_ranks(place, "LOCAL_RANK", "LOCAL_WORLD_SIZE");
  place.master_address = variables.text("MASTER_ADDR");
  place.master_port = variables.port("MASTER_PORT");
  place.store_of_launcher = variables.find("TORCHELASTIC_USE_AGENT_STORE") == "True";
  place.key_prefix = str("dga/", variables.find("TORCHELASTIC_RUN_ID").value_or(""), "/",
                         variables.find("TORCHELASTIC_RESTART_COUNT").value_or("0"), "/");
  return place;
}

/// A port that all processes of a launch derive from its identity.
int64_t derived_port(std::string_view identity) {
  uint64_t hash = 14695981039346656037U;  // FNV-1a, the same on every host
  for (const char c : identity) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
  return kFirstPort + static_cast<int64_t>(hash % static_cast<uint64_t>(kPorts));
}

LaunchEnvironment from_open_mpi(const VariableLookup& lookup) {
  const Variables variables(lookup, "OMPI_COMM_WORLD_RANK is");
  LaunchEnvironment place;
  variables.read_ranks(place, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE");
  if (place.world_size == 1) return place;
  variables.read_local_ranks(place, "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE");
  place.key_prefix = "dga/";
  if (place.is_one_host() && !variables.find("MASTER_ADDR")) {
    place.master_address = "127.0.0.1";
    const auto job = variables.find("PMIX_NAMESPACE");
    place.master_port = variables.find("MASTER_PORT")
                            ? variables.port("MASTER_PORT")
                            : derived_port(job ? *job : variables.find("OMPI_MCA_ess_base_jobid").value_or("mpirun"));
    return place;
  }
  const Variables remote(lookup,
                         str("mpirun started ranks on several hosts, which meet there; pass -x MASTER_ADDR=HOST "
                             "-x MASTER_PORT=PORT with the host of rank 0"));
  place.master_address = remote.text("MASTER_ADDR");
  place.master_port = remote.port("MASTER_PORT");
  return place;
}

/// The first host of a Slurm list such as "node[003-005,9],login".
std::string first_host(std::string_view list) {
  std::string host;
  size_t at = 0;
  while (at < list.size() && list[at] != ',') {
    if (list[at] != '[') {
      host += list[at++];
      continue;
    }
    const size_t end = list.find(']', at);
    const size_t first = list.find_first_of("-,]", at);
    if (end == std::string_view::npos || first == at + 1) return "";
    host += list.substr(at + 1, first - at - 1);
    at = end + 1;
  }
  return host;
}

/// Entry `node` of a list such as "2(x3),1"; nothing where it has none.
std::optional<int64_t> tasks_of_node(std::string_view list, int64_t node) {
  while (!list.empty()) {
    const std::string_view item = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), item.size() + 1));
    const size_t times = item.find("(x");
    const auto tasks = parse(item.substr(0, times));
    const auto nodes =
        times == std::string_view::npos ? 1 : parse(item.substr(times + 2, item.size() - times - 3)).value_or(0);
    if (!tasks || nodes < 1) return std::nullopt;
    if (node < nodes) return tasks;
    node -= nodes;
  }
  return std::nullopt;
}

int64_t slurm_local_tasks(const Variables& variables, int64_t world_size) {
  for (const char* name : {"SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"}) {
    const auto list = variables.find(name);
    if (!list) continue;
    const int64_t node = variables.number("SLURM_NODEID", 0, 1 << 20, "");
    const auto tasks = tasks_of_node(*list, node);
    if (!tasks || *tasks < 1 || *tasks > world_size) {
      fail(ExitCode::config, name, ": is ", *list, ", which gives no number of tasks for node ", node);
    }
    return *tasks;
  }
  fail(ExitCode::config, "SLURM_STEP_TASKS_PER_NODE: not set, though this is a Slurm job step");
}

std::string slurm_address(const Variables& variables) {
  if (const auto address = variables.find("MASTER_ADDR")) return *address;
  for (const char* name : {"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"}) {
    const auto list = variables.find(name);
    if (!list) continue;
    const std::string host = first_host(*list);
    if (host.empty()) fail(ExitCode::config, name, ": is ", *list, ", which is no list of hosts; set MASTER_ADDR");
    return host;
  }
  return variables.text("SLURM_JOB_NODELIST");
}

LaunchEnvironment from_slurm(const VariableLookup& lookup) {
  const Variables variables(lookup, "this is a Slurm job step of several tasks");
  LaunchEnvironment place;
  variables.read_ranks(place, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS");
  place.local_world_size = slurm_local_tasks(variables, place.world_size);
  place.local_rank = variables.number("SLURM_LOCALID", 0, place.local_world_size - 1,
                                      str(" (the step has ", place.local_world_size, " tasks on this node)"));
  place.master_address = slurm_address(variables);
  const std::string job = variables.find("SLURM_JOB_ID").value_or("");
  if (!variables.find("MASTER_PORT") && job.empty()) variables.text("SLURM_JOB_ID");
  place.master_port = variables.find("MASTER_PORT") ? variables.port("MASTER_PORT")
                                                    : derived_port(str(job, ".", variables.text("SLURM_STEP_ID")));
  place.key_prefix = "dga/";
  return place;
}

/// In a batch script or a shell of salloc SLURM_NTASKS is that of the allocation, whose other tasks do not exist: only
/// a step of srun has them. (With an interactive step, the shell is itself a step, of one task.)
bool is_slurm_step_of_several(const VariableLookup& lookup) {
  const auto tasks = lookup("SLURM_STEP_NUM_TASKS");
  return lookup("SLURM_STEP_ID") && tasks && tasks != "1";
}

}  // namespace

std::optional<std::string> environment_variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr || *value == '\0' ? std::nullopt : std::optional<std::string>(value);
}

LaunchEnvironment find_launch_environment(const VariableLookup& variable) {
  if (variable("RANK") || variable("WORLD_SIZE")) return from_torchrun(variable);
  if (variable("OMPI_COMM_WORLD_RANK") || variable("OMPI_COMM_WORLD_SIZE")) return from_open_mpi(variable);
  if (is_slurm_step_of_several(variable)) return from_slurm(variable);
  LaunchEnvironment alone;
  const auto tasks = variable("SLURM_NTASKS");
  if (tasks && tasks != "1" && variable("SLURM_JOB_ID")) {
    alone.remark = str("the Slurm allocation has ", *tasks,
                       " tasks, but this process was started without srun: it is "
                       "the only one of its run");
  }
  return alone;
}

}  // namespace dga

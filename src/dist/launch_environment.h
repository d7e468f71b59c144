#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace dga {

/// Which of a run's processes this one is, and where they meet.
struct LaunchEnvironment {
  int64_t rank = 0;
  int64_t world_size = 1;
  int64_t local_rank = 0;  // among the processes of this host; the number of its GPU
  int64_t local_world_size = 1;
  std::string master_address;  // of rank 0; empty for one process
  int64_t master_port = 0;
  bool store_of_launcher = false;  // whether the launcher hosts the store at that address, not rank 0
  std::string key_prefix;          // of the store's keys: a launcher's store outlives a failed attempt
  std::string remark;              // what a user may not expect of this launch; mostly empty

  bool is_one_host() const { return local_world_size == world_size; }
};

/// A variable's value; nothing where it is not set or empty.
using VariableLookup = std::function<std::optional<std::string>(const std::string& name)>;
std::optional<std::string> environment_variable(const std::string& name);

/// Reads what launched this process: the variables of torchrun (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
/// MASTER_ADDR, MASTER_PORT), else of Open MPI's mpirun, else of a Slurm job step (srun) of several tasks; else it is
/// one process. Open MPI comes before Slurm, in whose allocations mpirun starts one daemon a node as a job step.
/// Throws a config error that names the variable that is missing, malformed or contradicts another.
LaunchEnvironment find_launch_environment(const VariableLookup& variable = environment_variable);

}  // namespace dga

// What a launcher's variables mean, as a table.
#include "dist/launch_environment.h"

#include <gtest/gtest.h>

#include <map>

#include "util/error.h"

namespace dga {
namespace {

using Variables = std::map<std::string, std::string>;

LaunchEnvironment find(const Variables& variables) {
  return find_launch_environment([&](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
}

/// `base` with some variables set anew; an empty value removes one.
Variables with(Variables base, const Variables& changes) {
  for (const auto& [name, value] : changes) {
    base.erase(name);
    if (!value.empty()) base[name] = value;
  }
  return base;
}

const Variables kTorchrun = {{"RANK", "5"},        {"WORLD_SIZE", "8"},
                             {"LOCAL_RANK", "1"},  {"LOCAL_WORLD_SIZE", "4"},
                             {"MASTER_ADDR", "a"}, {"MASTER_PORT", "29500"}};
const Variables kOpenMpi = {{"OMPI_COMM_WORLD_RANK", "2"},
                            {"OMPI_COMM_WORLD_SIZE", "4"},
                            {"OMPI_COMM_WORLD_LOCAL_RANK", "2"},
                            {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                            {"PMIX_NAMESPACE", "prterun-a-17@1"}};
const Variables kSlurm = {{"SLURM_JOB_ID", "4711"},
                          {"SLURM_STEP_ID", "0"},
                          {"SLURM_STEP_NUM_TASKS", "7"},
                          {"SLURM_NTASKS", "7"},
                          {"SLURM_PROCID", "6"},
                          {"SLURM_LOCALID", "0"},
                          {"SLURM_NODEID", "3"},
                          {"SLURM_STEP_TASKS_PER_NODE", "2(x3),1"},
                          {"SLURM_STEP_NODELIST", "node[003-005,9]"}};

struct Place {
  int64_t rank, world_size, local_rank, local_world_size;
  std::string address;
};

void expect_place(const Variables& variables, const Place& expected) {
  const LaunchEnvironment place = find(variables);
  EXPECT_EQ(place.rank, expected.rank);
  EXPECT_EQ(place.world_size, expected.world_size);
  EXPECT_EQ(place.local_rank, expected.local_rank);
  EXPECT_EQ(place.local_world_size, expected.local_world_size);
  EXPECT_EQ(place.master_address, expected.address);
}

TEST(LaunchEnvironment, NothingIsOneProcess) {
  expect_place({}, {0, 1, 0, 1, ""});
  EXPECT_EQ(find({}).remark, "");
  expect_place({{"LOCAL_RANK", "3"}, {"MASTER_ADDR", "a"}}, {0, 1, 0, 1, ""});
  expect_place({{"RANK", "0"}, {"WORLD_SIZE", "1"}}, {0, 1, 0, 1, ""});
}

TEST(LaunchEnvironment, Torchrun) {
  expect_place(kTorchrun, {5, 8, 1, 4, "a"});
  const LaunchEnvironment place = find(kTorchrun);
  EXPECT_EQ(place.master_port, 29500);
  EXPECT_FALSE(place.store_of_launcher);
  EXPECT_FALSE(place.is_one_host());
  const auto elastic = with(
      kTorchrun,
      {{"TORCHELASTIC_USE_AGENT_STORE", "True"}, {"TORCHELASTIC_RUN_ID", "x"}, {"TORCHELASTIC_RESTART_COUNT", "1"}});
  EXPECT_TRUE(find(elastic).store_of_launcher);
  EXPECT_NE(find(elastic).key_prefix, find(with(elastic, {{"TORCHELASTIC_RESTART_COUNT", "2"}})).key_prefix);
  // torchrun under srun, or as one of mpirun's processes: its own variables count.
  expect_place(with(with(kSlurm, kOpenMpi), kTorchrun), {5, 8, 1, 4, "a"});
}

TEST(LaunchEnvironment, OpenMpi) {
  expect_place(kOpenMpi, {2, 4, 2, 4, "127.0.0.1"});
  EXPECT_EQ(find(kOpenMpi).master_port, find(with(kOpenMpi, {{"OMPI_COMM_WORLD_RANK", "0"}})).master_port);
  EXPECT_NE(find(kOpenMpi).master_port, find(with(kOpenMpi, {{"PMIX_NAMESPACE", "prterun-a-18@1"}})).master_port);
  EXPECT_EQ(find(with(kOpenMpi, {{"MASTER_PORT", "1234"}})).master_port, 1234);
  expect_place(with(kOpenMpi, {{"OMPI_COMM_WORLD_LOCAL_SIZE", "3"}, {"MASTER_ADDR", "b"}, {"MASTER_PORT", "99"}}),
               {2, 4, 2, 3, "b"});
  // mpirun's daemons are a job step of one task a node.
  expect_place(with(with(kSlurm, {{"SLURM_STEP_NUM_TASKS", "2"}}), kOpenMpi), {2, 4, 2, 4, "127.0.0.1"});
}

TEST(LaunchEnvironment, SlurmStep) {
  expect_place(kSlurm, {6, 7, 0, 1, "node003"});
  const int64_t port = find(kSlurm).master_port;
  EXPECT_GE(port, 1024);
  EXPECT_LT(port, 32768);
  EXPECT_NE(port, find(with(kSlurm, {{"SLURM_JOB_ID", "4712"}})).master_port);
  EXPECT_NE(port, find(with(kSlurm, {{"SLURM_STEP_ID", "1"}})).master_port);
  EXPECT_EQ(find(with(kSlurm, {{"MASTER_PORT", "1234"}, {"SLURM_JOB_ID", ""}})).master_port, 1234);
  expect_place(
      with(kSlurm, {{"SLURM_PROCID", "5"}, {"SLURM_NODEID", "2"}, {"SLURM_LOCALID", "1"}, {"MASTER_ADDR", "m"}}),
      {5, 7, 1, 2, "m"});
  // The older names.
  expect_place(with(kSlurm, {{"SLURM_STEP_TASKS_PER_NODE", ""},
                             {"SLURM_TASKS_PER_NODE", "7"},
                             {"SLURM_NODEID", "0"},
                             {"SLURM_LOCALID", "6"},
                             {"SLURM_STEP_NODELIST", ""},
                             {"SLURM_NODELIST", "single"}}),
               {6, 7, 6, 7, "single"});
}

TEST(LaunchEnvironment, FirstHostOfASlurmList) {
  const std::pair<const char*, const char*> lists[] = {
      {"a", "a"},
      {"a,b", "a"},
      {"n[7]", "n7"},
      {"n[07-12],m1", "n07"},
      {"n[3,5-9].x,m", "n3.x"},
      {"r[1-2]n[08-9]", "r1n08"},
      {"n-a-1,n-a-2", "n-a-1"},
  };
  for (const auto& [list, host] : lists) {
    EXPECT_EQ(find(with(kSlurm, {{"SLURM_STEP_NODELIST", list}})).master_address, host) << list;
  }
}

/// What a batch script, a shell of salloc, an interactive step and `srun -n1` set: nobody else will come.
TEST(LaunchEnvironment, AnAllocationWithoutSrunIsOneProcess) {
  const Variables script = {
      {"SLURM_JOB_ID", "1"}, {"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}, {"SLURM_LOCALID", "0"}};
  expect_place(script, {0, 1, 0, 1, ""});
  EXPECT_NE(find(script).remark.find("8 tasks"), std::string::npos);
  const Variables interactive = with(script, {{"SLURM_STEP_ID", "4294967290"}, {"SLURM_STEP_NUM_TASKS", "1"}});
  expect_place(interactive, {0, 1, 0, 1, ""});
  EXPECT_NE(find(interactive).remark, "");
  const Variables one_task = with(interactive, {{"SLURM_STEP_ID", "0"}, {"SLURM_NTASKS", "1"}});
  expect_place(one_task, {0, 1, 0, 1, ""});
  EXPECT_EQ(find(one_task).remark, "");
}

TEST(LaunchEnvironment, WrongVariablesAreNamed) {
  struct Case {
    Variables variables;
    std::string message;
  };
  const Case cases[] = {
      {with(kTorchrun, {{"WORLD_SIZE", ""}}), "WORLD_SIZE: not set, though RANK is"},
      {with(kTorchrun, {{"RANK", ""}}), "RANK: not set, though WORLD_SIZE is"},
      {with(kTorchrun, {{"RANK", "8"}}), "RANK: is 8; must be a whole number from 0 to 7 (WORLD_SIZE is 8)"},
      {with(kTorchrun, {{"RANK", "one"}}), "RANK: is one; must be a whole number from 0 to 7 (WORLD_SIZE is 8)"},
      {with(kTorchrun, {{"WORLD_SIZE", "0"}}), "WORLD_SIZE: is 0; must be a whole number from 1 to 1048576"},
      {with(kTorchrun, {{"LOCAL_RANK", ""}}), "LOCAL_RANK: not set, though RANK is"},
      {with(kTorchrun, {{"LOCAL_RANK", "4"}}),
       "LOCAL_RANK: is 4; must be a whole number from 0 to 3 (LOCAL_WORLD_SIZE is 4)"},
      {with(kTorchrun, {{"LOCAL_WORLD_SIZE", "9"}}),
       "LOCAL_WORLD_SIZE: is 9; must be a whole number from 1 to 8, the number of all ranks"},
      {with(kTorchrun, {{"MASTER_ADDR", ""}}), "MASTER_ADDR: not set, though RANK is"},
      {with(kTorchrun, {{"MASTER_PORT", "70000"}}), "MASTER_PORT: is 70000; must be a whole number from 1 to 65535"},
      {with(kOpenMpi, {{"OMPI_COMM_WORLD_LOCAL_RANK", ""}}),
       "OMPI_COMM_WORLD_LOCAL_RANK: not set, though OMPI_COMM_WORLD_RANK is"},
      {with(kOpenMpi, {{"OMPI_COMM_WORLD_LOCAL_SIZE", "3"}}),
       "MASTER_ADDR: not set, though mpirun started ranks on several hosts, which meet there; pass -x MASTER_ADDR=HOST "
       "-x MASTER_PORT=PORT with the host of rank 0"},
      {with(kSlurm, {{"SLURM_PROCID", ""}}), "SLURM_PROCID: not set, though this is a Slurm job step of several tasks"},
      {with(kSlurm, {{"SLURM_STEP_TASKS_PER_NODE", "2(x3)"}}),
       "SLURM_STEP_TASKS_PER_NODE: is 2(x3), which gives no number of tasks for node 3"},
      {with(kSlurm, {{"SLURM_STEP_NODELIST", "n[3"}}),
       "SLURM_STEP_NODELIST: is n[3, which is no list of hosts; set MASTER_ADDR"},
      {with(kSlurm, {{"SLURM_STEP_NODELIST", ""}}),
       "SLURM_JOB_NODELIST: not set, though this is a Slurm job step of several tasks"},
      {with(kSlurm, {{"SLURM_LOCALID", "1"}}),
       "SLURM_LOCALID: is 1; must be a whole number from 0 to 0 (the step has 1 tasks on this node)"},
  };
  for (const Case& wrong : cases) {
    try {
      find(wrong.variables);
      ADD_FAILURE() << "accepted, should be: " << wrong.message;
    } catch (const Error& e) {
      EXPECT_EQ(e.what(), wrong.message);
      EXPECT_EQ(e.code(), ExitCode::config);
    }
  }
}

}  // namespace
}  // namespace dga

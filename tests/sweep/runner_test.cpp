// The runner with a script in the program's place: what it is told, what its exit codes mean, how many run at a time.
#include "sweep/runner.h"

#include <sys/stat.h>

#include <barrier>
#include <set>
#include <thread>

#include "run/run_config.h"
#include "sweep/point_state.h"
#include "sweep_folder.h"

namespace dga {
namespace {

class SweepRunnerTest : public SweepTest {
 protected:
  /// A program that runs `body` in the point's folder, with the run's name as $name.
  std::filesystem::path program(const std::string& body) {
    const std::filesystem::path file = folder_.write(
        "program.sh",
        "#!/bin/sh\ncd \"$(dirname \"$2\")\" || exit 99\nname=$(basename \"$PWD\")\necho run >> runs\n" + body);
    chmod(file.c_str(), 0755);
    return file;
  }
  static PointState state(const SweepPlan& plan, size_t point) { return read_point_state(plan.points[point].folder); }
  static int64_t runs(const SweepPlan& plan, size_t point) {
    const std::filesystem::path file = plan.points[point].folder / "runs";
    return std::filesystem::exists(file) ? static_cast<int64_t>(read_file(file).size()) / 4 : 0;
  }
};

TEST_F(SweepRunnerTest, AFailedPointDoesNotStopTheOthersAndIsTheOneThatRunsAgain) {
  const SweepPlan sweep = plan("grid: {run.seed: [1, 2, 3]}\n");
  const auto bad = program("[ $name = seed=2 ] || exit 0\necho 'error: no data' >&2\nexit 4\n");
  EXPECT_EQ(run_sweep(sweep, {bad, {}}), ExitCode::failure);
  EXPECT_EQ(state(sweep, 0).status, PointStatus::finished);
  EXPECT_EQ(state(sweep, 1).status, PointStatus::failed);
  EXPECT_EQ(state(sweep, 1).exit_code, 4);
  EXPECT_EQ(state(sweep, 1).error, "no data");
  EXPECT_EQ(state(sweep, 2).status, PointStatus::finished);
  EXPECT_NE(read_file(sweep.folder / "table.md").find("| failed |"), std::string::npos);

  EXPECT_EQ(run_sweep(sweep, {program("exit 0\n"), {}}), ExitCode::ok);
  EXPECT_EQ(state(sweep, 1).status, PointStatus::finished);
  EXPECT_EQ(state(sweep, 1).error, "");
  EXPECT_EQ(runs(sweep, 0), 1);
  EXPECT_EQ(runs(sweep, 1), 2);
}

TEST_F(SweepRunnerTest, APointRunsAgainWhenItsConfigHasChanged) {
  const SweepPlan before = plan("set: {train.steps: 5}\ngrid: {run.seed: [1, 2]}\n");
  run_sweep(before, {program("exit 0\n"), {}});
  const SweepPlan after = plan("set: {train.steps: 7}\ngrid: {run.seed: [1, 2]}\n");
  EXPECT_TRUE(is_due(after.points[0]));
  run_sweep(after, {program("exit 0\n"), {}});
  EXPECT_EQ(runs(after, 0), 2);
  EXPECT_FALSE(is_due(after.points[0]));
}

TEST_F(SweepRunnerTest, WhatRunsIsWhatWasPlanned) {
  for (const SweepJob job : {SweepJob::train, SweepJob::eval}) {
    folder_.write("under.yaml", "log: {every_steps: 3}\n");
    SweepPlan sweep = plan(str("list: [{name: ", config::name_of(job), ", include: under.yaml}]\n"));
    sweep.job = job;
    folder_.write("under.yaml", "log: {every_steps: 4}\n");  // while earlier points would run
    EXPECT_EQ(run_sweep(sweep, {program("cp point.yaml seen.yaml\n"), {}}), ExitCode::ok);
    const std::filesystem::path folder = sweep.points[0].folder;
    EXPECT_EQ(load_run(folder / "seen.yaml", {}).hash, sweep.points[0].config_hash);
    EXPECT_EQ(state(sweep, 0).config_hash, sweep.points[0].config_hash);
    // Training writes config.yaml itself; for the page of an evaluation it comes from the sweep.
    EXPECT_EQ(std::filesystem::exists(folder / "config.yaml"), job == SweepJob::eval);
  }
}

TEST_F(SweepRunnerTest, ARefusedCallLeavesTheRunningSweepAsItIs) {
  const auto copies = program(
      "[ $name = seed=1 ] && touch ../begun && while [ ! -e ../go ]; do sleep 0.01; done\n"
      "cp point.yaml seen.yaml\n");
  const SweepPlan running = plan("set: {train.steps: 5}\ngrid: {run.seed: [1, 2]}\n");
  std::jthread sweep([&] { EXPECT_EQ(run_sweep(running, {copies, {}}), ExitCode::ok); });
  while (!std::filesystem::exists(running.folder / "begun")) std::this_thread::yield();
  try {
    run_sweep(plan("set: {train.steps: 7}\ngrid: {run.seed: [1, 2]}\n"), {copies, {}});
    ADD_FAILURE() << "two at once";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("another process runs the sweep"), std::string::npos) << error.what();
  }
  folder_.write("out/go", "");
  sweep.join();
  for (const SweepPoint& point : running.points) {
    EXPECT_EQ(load_run(point.folder / "seen.yaml", {}).config.train.steps, 5) << point.name;
    EXPECT_EQ(read_point_state(point.folder).config_hash, point.config_hash);
  }
}

TEST_F(SweepRunnerTest, ExitCodesOfAStopAreInterruptions) {
  const SweepPlan sweep = plan("grid: {run.seed: [1, 2, 3]}\n");
  EXPECT_EQ(
      run_sweep(sweep, {program("case $name in seed=1) exit 130;; seed=2) exit 143;; *) kill -9 $$;; esac\n"), {}}),
      ExitCode::failure);
  EXPECT_EQ(state(sweep, 0).status, PointStatus::interrupted);
  EXPECT_EQ(state(sweep, 1).status, PointStatus::interrupted);
  EXPECT_EQ(state(sweep, 2).status, PointStatus::failed);
  EXPECT_EQ(state(sweep, 2).error, "ended by signal 9");
}

TEST_F(SweepRunnerTest, CommandLinesAreThoseOfTheJob) {
  const auto record = program("echo \"$@\" > words\n");
  SweepPlan sweep = plan("grid: {run.seed: [1]}\n");
  const std::filesystem::path folder = sweep.points[0].folder;
  run_sweep(sweep, {record, {}});
  EXPECT_EQ(read_file(folder / "words"), str("train ", (folder / "point.yaml").string(), " --resume\n"));
  std::filesystem::remove(folder / "point.json");
  sweep.job = SweepJob::eval;
  sweep.points[0].model_assignments = {"model.rope_theta=5"};
  run_sweep(sweep, {record, {}});
  EXPECT_EQ(read_file(folder / "words"), str("eval ", (folder / "point.yaml").string(), " --output ",
                                             (folder / "eval/result.json").string(), " --set model.rope_theta=5\n"));
}

TEST_F(SweepRunnerTest, EveryGpuHasOnePointAtATime) {
  const SweepPlan sweep = plan("grid: {run.seed: [1, 2, 3, 4, 5]}\n");
  // A folder that exists already means that another point is on this GPU.
  const auto exclusive = program(
      "gpu=../gpu$CUDA_VISIBLE_DEVICES\nmkdir $gpu || exit 9\necho $CUDA_VISIBLE_DEVICES >> ../used\nsleep 0.2\n"
      "rmdir $gpu\n");
  EXPECT_EQ(run_sweep(sweep, {exclusive, {"3", "GPU-abc"}}), ExitCode::ok);
  const std::string used = read_file(sweep.folder / "used");
  EXPECT_NE(used.find("3\n"), std::string::npos);
  EXPECT_NE(used.find("GPU-abc\n"), std::string::npos);
  EXPECT_EQ(std::count(used.begin(), used.end(), '\n'), 5);
}

TEST_F(SweepRunnerTest, APointOnSeveralGpusIsLaunchedOnThem) {
  const SweepPlan sweep = plan("gpus_per_point: 2\ngrid: {run.seed: [1, 2, 3]}\n");
  const auto record = program(
      "echo \"$CUDA_VISIBLE_DEVICES $@\" > words\nmkdir ../on$CUDA_VISIBLE_DEVICES || exit 9\n"
      "sleep 0.1\nrmdir ../on$CUDA_VISIBLE_DEVICES\n");
  EXPECT_EQ(run_sweep(sweep, {record, {"4", "5", "6", "7", "8"}}), ExitCode::ok);  // 8 stays free
  std::set<std::string> gpus;
  for (const SweepPoint& point : sweep.points) {
    const std::string words = read_file(point.folder / "words");
    gpus.insert(words.substr(0, words.find(' ')));
    EXPECT_NE(words.find(str(" train ", (point.folder / "point.yaml").string(), " --gpus 2 --resume\n")),
              std::string::npos)
        << words;
  }
  EXPECT_EQ(gpus, (std::set<std::string>{"4,5", "6,7"}));
  const SweepPlan again = plan("gpus_per_point: 2\ngrid: {run.seed: [4]}\n");
  try {
    run_sweep(again, {record, {"0"}});
    ADD_FAILURE() << "ran on a GPU that is not there";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()), "gpus_per_point: 2, but this process has 1 GPUs");
  }
}

/// Several threads in the place of processes that run a sweep together.
class Together {
 public:
  explicit Together(int64_t count) : barrier_(count) {}
  SweepOptions options(const std::filesystem::path& program, const Share& share) {
    return {program, {}, share, [this, share](const std::string&, const std::function<void()>& work) {
              barrier_.arrive_and_wait();
              if (share.index == 0) work();
              barrier_.arrive_and_wait();
            }};
  }

 private:
  std::barrier<> barrier_;
};

TEST_F(SweepRunnerTest, SeveralProcessesShareThePoints) {
  const SweepPlan sweep = plan("grid: {run.seed: [1, 2, 3, 4, 5, 6, 7]}\n");
  const auto recording = program("echo $RANK $WORLD_SIZE > world\n[ $name != seed=4 ]\n");
  for (int call = 1; call <= 2; ++call) {
    Together together(3);
    std::vector<ExitCode> codes(3);
    {
      std::vector<std::jthread> threads;
      for (int64_t index = 0; index < 3; ++index) {
        threads.emplace_back([&, index] {
          codes[static_cast<size_t>(index)] = run_sweep(sweep, together.options(recording, {index, 3}));
        });
      }
    }
    // Point 3 (seed 4) is of process 0, which answers for all.
    EXPECT_EQ(codes, (std::vector<ExitCode>{ExitCode::failure, ExitCode::ok, ExitCode::ok}));
    for (size_t i = 0; i < 7; ++i) {
      EXPECT_EQ(runs(sweep, i), i == 3 ? call : 1) << i;
      EXPECT_EQ(read_file(sweep.points[i].folder / "world"), "0 1\n");
    }
    const std::string table = read_file(sweep.folder / "table.csv");
    EXPECT_NE(table.find("seed=7,7,finished"), std::string::npos) << table;
    EXPECT_NE(table.find("seed=4,4,failed"), std::string::npos) << table;
  }
}

TEST_F(SweepRunnerTest, WithoutGpusPointsRunOneAfterAnotherAndSeeTheEnvironmentAsItIs) {
  const SweepPlan sweep = plan("grid: {run.seed: [1, 2, 3]}\n");
  const auto exclusive =
      program("[ -z \"${CUDA_VISIBLE_DEVICES+set}\" ] || exit 8\nmkdir ../busy || exit 9\nsleep 0.1\nrmdir ../busy\n");
  EXPECT_EQ(run_sweep(sweep, {exclusive, {}}), ExitCode::ok);
}

}  // namespace
}  // namespace dga

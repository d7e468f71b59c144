// Several processes of the program as one run.
#include "ranks_program.h"

namespace dga {
namespace {

constexpr double kPromisedSeconds = 60;  // from one rank's end to that of the others
constexpr const char* kEndless = "train.steps=1000000";

TEST_F(RanksProgram, TwoProcessesTrainOneRun) {
  start(2, {});
  for (const int64_t rank : {0, 1}) EXPECT_EQ(wait(rank), 0) << text(rank);
  EXPECT_EQ(steps(), 8);
  EXPECT_NE(text(0).find("finished at step 8"), std::string::npos) << text(0);
  EXPECT_NE(text(0).find("2 ranks, 2 on this host"), std::string::npos) << text(0);
  EXPECT_EQ(text(1), "");
}

TEST_F(RanksProgram, DifferencesAreRefusedByName) {
  start(2, {}, {{1, {"train.steps=9", "log.level=debug"}}});
  for (const int64_t rank : {0, 1}) {
    EXPECT_EQ(wait(rank), static_cast<int>(ExitCode::config)) << text(rank);
    EXPECT_NE(text(rank).find("error: train.steps is 8 on rank 0 ("), std::string::npos) << text(rank);
    EXPECT_NE(text(rank).find(") and 9 on rank 1 ("), std::string::npos) << text(rank);
    EXPECT_EQ(text(rank).find("log.level"), std::string::npos) << text(rank);
  }
  EXPECT_FALSE(std::filesystem::exists(run_folder()));
}

TEST_F(RanksProgram, AnErrorOfOneRankIsToldByTheOther) {
  start(2, {}, {{1, {"train.stepz=9"}}});
  EXPECT_EQ(wait(1), static_cast<int>(ExitCode::config)) << text(1);
  EXPECT_EQ(wait(0), static_cast<int>(ExitCode::rank)) << text(0);
  EXPECT_NE(text(0).find("error: rank 1 ("), std::string::npos) << text(0);
  EXPECT_NE(text(0).find("train.stepz: unknown key"), std::string::npos) << text(0);
}

TEST_F(RanksProgram, TheBatchMustDivide) {
  start(3, {});
  for (const int64_t rank : {0, 1, 2}) {
    EXPECT_EQ(wait(rank), static_cast<int>(ExitCode::config)) << text(rank);
    EXPECT_NE(
        text(rank).find("error: rank 0: train.global_batch_size: is 8; 3 ranks with train.micro_batch_size 2 need a "
                        "multiple of 6, such as 6 or 12\n"),
        std::string::npos)
        << text(rank);
  }
}

TEST_F(RanksProgram, AKilledRankEndsTheRunAndFewerGoOn) {
  for (const int64_t killed : {1, 0}) {
    start(2, {kEndless});
    wait_for_steps(steps() + 6);
    send(killed, SIGKILL);
    EXPECT_EQ(wait(killed), -SIGKILL);
    const Timer timer;
    const int64_t other = 1 - killed;
    EXPECT_EQ(wait(other), static_cast<int>(ExitCode::rank)) << text(other);
    EXPECT_LT(timer.seconds(), kPromisedSeconds);
    EXPECT_NE(text(other).find(str("error: rank ", killed, " (")), std::string::npos) << text(other);
    EXPECT_NE(text(other).find("is gone"), std::string::npos) << text(other);
  }
  const int64_t last = steps() + 2;
  start(1, {str("train.steps=", last)});
  EXPECT_EQ(wait(0), 0) << text(0);
  EXPECT_NE(text(0).find("going on from"), std::string::npos) << text(0);
  EXPECT_EQ(steps(), last);
}

TEST_F(RanksProgram, ASignalToOneRankStopsAllAfterTheSameStep) {
  for (const int64_t rank : {0, 1}) {
    start(2, {kEndless, "checkpoint.every_steps=0"});
    wait_for_steps(steps() + 3);
    send(rank, SIGTERM);
    for (const int64_t each : {0, 1}) EXPECT_EQ(wait(each), static_cast<int>(ExitCode::terminated)) << text(each);
    EXPECT_TRUE(std::filesystem::exists(run_folder() / str("checkpoints/step-", steps()))) << steps();
  }
}

TEST_F(RanksProgram, GpusAreCounted) {
  const std::string train = "train run.yaml --gpus 64";
  const Finished on_cpu = run(train);
  EXPECT_EQ(on_cpu.code, 2);
  EXPECT_NE(on_cpu.err.find("error: --gpus 64: run.device is cpu;"), std::string::npos) << on_cpu.err;
  const Finished too_many = run(train + " --set run.device=auto");
  EXPECT_EQ(too_many.code, 2);
  EXPECT_NE(too_many.err.find("error: --gpus 64: there are "), std::string::npos) << too_many.err;
  setenv("RANK", "0", 1);
  setenv("WORLD_SIZE", "2", 1);
  setenv("LOCAL_RANK", "0", 1);
  setenv("LOCAL_WORLD_SIZE", "2", 1);
  setenv("MASTER_ADDR", "127.0.0.1", 1);
  setenv("MASTER_PORT", "29500", 1);
  const Finished nested = run(train);
  const Finished unlaunched = (unsetenv("MASTER_ADDR"), run("train run.yaml"));
  for (const char* name : {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"}) unsetenv(name);
  EXPECT_EQ(nested.code, 2);
  EXPECT_NE(nested.err.find("--gpus 64: this process is already one of 2"), std::string::npos) << nested.err;
  EXPECT_EQ(unlaunched.code, 3);
  EXPECT_EQ(unlaunched.err, "error: MASTER_ADDR: not set, though RANK is\n");
}

}  // namespace
}  // namespace dga

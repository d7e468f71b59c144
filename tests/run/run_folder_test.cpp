#include "run/run_folder.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "run/build_info.h"
#include "run/run_fixture.h"
#include "util/file.h"

namespace dga {
namespace {

class RunFolder : public RunTest {
 protected:
  LoadedRun run_with(const std::string& more) {
    return load(training_yaml("run: {folder: " + place().string() + "}\n" + more));
  }
  std::filesystem::path place() const { return folder_.path() / "runs/deep/a"; }
  nlohmann::json starts() const { return nlohmann::json::parse(read_file(place() / "provenance.json")).at("starts"); }
};

TEST_F(RunFolder, HoldsTheResolvedConfigAndWhereItComesFrom) {
  const LoadedRun run = run_with("");
  EXPECT_EQ(create_run_folder(run, {"dga", "train", "a.yaml"}, RunStart::fresh), place());
  EXPECT_EQ(read_file(place() / "config.yaml"), run.resolved_yaml);
  ASSERT_EQ(starts().size(), 1u);
  const nlohmann::json start = starts()[0];
  EXPECT_EQ(start.at("config_hash"), run.hash);
  EXPECT_EQ(start.at("command_line"), (std::vector<std::string>{"dga", "train", "a.yaml"}));
  EXPECT_EQ(start.at("commit"), build_info().commit);
  EXPECT_EQ(start.at("version"), "0.1.0");
  EXPECT_EQ(start.at("libraries").at("LibTorch"), "2.11.0");
  char name[256] = {};
  ASSERT_EQ(gethostname(name, sizeof(name) - 1), 0);
  EXPECT_EQ(start.at("host").at("name"), name);
  EXPECT_EQ(start.at("working_directory"), std::filesystem::current_path().string());
  EXPECT_EQ(start.at("time").get<std::string>().size(), std::string("2025-01-01T00:00:00Z").size());
}

TEST_F(RunFolder, AFreshStartRefusesARunThatExists) {
  const LoadedRun run = run_with("");
  create_run_folder(run, {}, RunStart::fresh);
  create_run_folder(run, {}, RunStart::fresh);  // nothing was trained yet
  EXPECT_EQ(starts().size(), 1u);
  folder_.write("runs/deep/a/metrics.jsonl", "{}\n");
  try {
    create_run_folder(run, {}, RunStart::fresh);
    FAIL() << "an existing run was overwritten";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::config);
    EXPECT_EQ(folder_.relative(e.what()),
              "run.folder: runs/deep/a holds a run already; continue it with --resume, or choose another run.name or "
              "run.folder");
  }
  EXPECT_EQ(starts().size(), 1u);
}

TEST_F(RunFolder, CheckpointsAloneAreARunToo) {
  folder_.write("runs/deep/a/checkpoints/step-1/x", "");
  EXPECT_THROW(create_run_folder(run_with(""), {}, RunStart::fresh), Error);
}

TEST_F(RunFolder, AResumeAddsAStart) {
  const LoadedRun run = run_with("");
  create_run_folder(run, {"first"}, RunStart::fresh);
  folder_.write("runs/deep/a/metrics.jsonl", "{}\n");
  create_run_folder(run, {"second"}, RunStart::resume);
  ASSERT_EQ(starts().size(), 2u);
  EXPECT_EQ(starts()[0].at("command_line")[0], "first");
  EXPECT_EQ(starts()[1].at("command_line")[0], "second");
  EXPECT_EQ(read_file(place() / "config.yaml"), run.resolved_yaml);
  EXPECT_FALSE(std::filesystem::exists(place() / ("config-" + run.hash + ".yaml")));
}

TEST_F(RunFolder, AResumeWithOtherValuesKeepsTheEarlierConfig) {
  const LoadedRun first = run_with(""), second = run_with("train: {steps: 2000}\n");
  create_run_folder(first, {}, RunStart::fresh);
  create_run_folder(second, {}, RunStart::resume);
  EXPECT_EQ(read_file(place() / "config.yaml"), second.resolved_yaml);
  EXPECT_EQ(read_file(place() / ("config-" + first.hash + ".yaml")), first.resolved_yaml);
  EXPECT_EQ(starts()[0].at("config_hash"), first.hash);
  EXPECT_EQ(starts()[1].at("config_hash"), second.hash);
}

TEST_F(RunFolder, AResumeOfNothingIsAFirstStart) {
  create_run_folder(run_with(""), {}, RunStart::resume);
  EXPECT_EQ(starts().size(), 1u);
}

TEST_F(RunFolder, DamagedProvenanceIsAnInputError) {
  folder_.write("runs/deep/a/provenance.json", "{");
  try {
    create_run_folder(run_with(""), {}, RunStart::resume);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::input);
    EXPECT_EQ(folder_.relative(e.what()),
              "runs/deep/a/provenance.json: not the provenance of a run; move it away to go on");
  }
}

}  // namespace
}  // namespace dga

#include "run/run_config.h"
#include "sweep_folder.h"

namespace dga {
namespace {

namespace fs = std::filesystem;

class SweepPlanTest : public SweepTest {
 protected:
  /// The config that a point's YAML reads back to, wherever it lies.
  RunConfig config_of(const SweepPoint& point) const {
    const LoadedRun run = load_run(folder_.write("elsewhere/planned.yaml", point.yaml), {}, RunUse::training);
    EXPECT_EQ(run.hash, point.config_hash);
    return run.config;
  }
  /// A sweep of evaluations, of weights that are never read.
  SweepPlan evaluations() const {
    folder_.write("weights.yaml", str("model: {path: ", DGA_SOURCE_DIR,
                                      "/configs/llama2_7b_shape}\neval: {sources: [{name: a, paths: x.u16}]}\n"
                                      "data: {context_length: 100000}\n"));
    const std::string head = str("job: eval\nfolder: ", (folder_.path() / "out").string(), "\n");
    return read_sweep(
        folder_.write("eval.yaml", head + "config: weights.yaml\ngrid: {model.rope_theta: [20000, 50000]}\n"), {});
  }
};

TEST_F(SweepPlanTest, AGridIsEveryCombinationTheLastFieldFastest) {
  const SweepPlan grid = plan("grid: {attention.group_size: [4, 16], run.seed: [1, 2, 3]}\n");
  EXPECT_EQ(names(grid),
            (std::vector<std::string>{"group_size=4,seed=1", "group_size=4,seed=2", "group_size=4,seed=3",
                                      "group_size=16,seed=1", "group_size=16,seed=2", "group_size=16,seed=3"}));
  EXPECT_EQ(grid.fields, (std::vector<std::string>{"attention.group_size", "run.seed"}));
  const RunConfig last = config_of(grid.points.back());
  EXPECT_EQ(last.attention.group_size, 16);
  EXPECT_EQ(last.run.seed, 3);
  EXPECT_EQ(last.run.path(), folder_.path() / "out" / "group_size=16,seed=3");
  EXPECT_EQ(last.train.steps, 6);  // of base.yaml
}

TEST_F(SweepPlanTest, AListTakesFieldsFilesAndNames) {
  folder_.write("wide.yaml", "attention: {kind: dga, local_window: 9}\n");
  const SweepPlan list = plan(
      "list:\n  - {name: far, include: wide.yaml, attention.group_size: 2}\n"
      "  - {attention.layers: [{layers: '0', kind: dga}]}\n");
  ASSERT_EQ(list.points.size(), 2U);
  EXPECT_EQ(list.points[0].name, "far");
  const RunConfig far = config_of(list.points[0]), mixed = config_of(list.points[1]);
  EXPECT_EQ(far.attention.kind, AttentionKind::dga);
  EXPECT_EQ(far.attention.local_window, 9);
  EXPECT_EQ(far.attention.group_size, 2);
  EXPECT_EQ(mixed.attention.kind, AttentionKind::full);
  ASSERT_EQ(mixed.attention.layers.size(), 1U);
  EXPECT_EQ(mixed.attention.layers[0].layers, "0");
}

TEST_F(SweepPlanTest, AListGoesWithEveryCombinationOfTheGrid) {
  EXPECT_EQ(names(plan("list: [{name: a, attention.kind: dga}, {train.steps: 3}]\ngrid: {run.seed: [1, 2]}\n")),
            (std::vector<std::string>{"a,seed=1", "a,seed=2", "steps=3,seed=1", "steps=3,seed=2"}));
}

TEST_F(SweepPlanTest, SetAndAssignmentsGoIntoEveryPoint) {
  const SweepPlan both = plan("set: {train.steps: 4, data: {context_length: 16}}\ngrid: {run.seed: [1, 2]}\n",
                              {"train.global_batch_size=1"});
  for (const SweepPoint& point : both.points) {
    const RunConfig config = config_of(point);
    EXPECT_EQ(config.train.steps, 4);
    EXPECT_EQ(config.data.context_length, 16);
    EXPECT_EQ(config.train.global_batch_size, 1);
  }
  EXPECT_NE(both.points[0].config_hash, both.points[1].config_hash);
}

TEST_F(SweepPlanTest, TextThatLooksLikeANumberStaysText) {
  const SweepPlan quoted = plan("grid: {data.tokenizer: ['007', \"a: b\"]}\n");
  EXPECT_EQ(config_of(quoted.points[0]).data.tokenizer, "007");
  EXPECT_EQ(config_of(quoted.points[1]).data.tokenizer, "a: b");
  EXPECT_EQ(quoted.points[1].name, "tokenizer=a__b");
}

TEST_F(SweepPlanTest, SaysWhatIsWrongAndWhere) {
  EXPECT_EQ(error("gird: {}\n"), "sweep.yaml:3: gird: unknown key; did you mean grid?");
  EXPECT_EQ(error("grid:\n  run.seed: 3\n"), "sweep.yaml:4: grid: run.seed: expected a list of values, got '3'");
  EXPECT_EQ(error("grid: {run.name: [a, b]}\n"), "sweep.yaml:3: run.name: a sweep gives every point its own");
  EXPECT_EQ(error("grid: {run.seed: [1, 1]}\n").substr(0, 50), "sweep.yaml:1: two points are called seed=1; give t");
  EXPECT_EQ(error("set: {}\n").substr(0, 33), "sweep.yaml:1: nothing is varied; ");
  EXPECT_NE(error("grid: {attention.group_sise: [4]}\n").find("attention.group_sise: unknown key; did you mean"),
            std::string::npos);
  EXPECT_EQ(error("grid:\n  attention.group_size: [4, 0]\n"),
            "point group_size=0: sweep.yaml:4: attention.group_size: must be at least 1, got 0");
  EXPECT_EQ(error("grid: {run.seed: [1]}\nlist: [{include: missing.yaml}]\n").substr(0, 45),
            "point seed=1,missing: sweep.yaml: include: ca");
}

TEST_F(SweepPlanTest, ReadingAPlanWritesNothing) {
  plan("grid: {run.seed: [1, 2]}\n");
  EXPECT_FALSE(fs::exists(folder_.path() / "out"));
  evaluations();
  EXPECT_FALSE(fs::exists(folder_.path() / "out"));
}

TEST_F(SweepPlanTest, APointMayTakeSeveralGpus) {
  EXPECT_EQ(plan("grid: {run.seed: [1]}\n").gpus_per_point, 1);
  EXPECT_EQ(plan("gpus_per_point: 8\ngrid: {run.seed: [1]}\n").gpus_per_point, 8);
  for (const char* wrong : {"0", "-1", "two", "1.5"}) {
    EXPECT_EQ(error(str("gpus_per_point: ", wrong, "\ngrid: {run.seed: [1]}\n")),
              str("sweep.yaml:3: gpus_per_point: must be a whole number, at least 1, got '", wrong, "'"));
  }
}

TEST_F(SweepPlanTest, EvaluationsNeedWeightsAndTextAndTakeTheModelsFieldsAlong) {
  EXPECT_EQ(error("job: evil\ngrid: {run.seed: [1]}\n"), "sweep.yaml:3: job: must be train or eval, got 'evil'");
  EXPECT_EQ(error("job: eval\ngrid: {run.seed: [1]}\n"),
            "point seed=1: model.path: a sweep of evaluations needs a folder with weights");
  const SweepPlan plan = evaluations();
  EXPECT_EQ(plan.job, SweepJob::eval);
  EXPECT_EQ(plan.points[1].model_assignments, std::vector<std::string>{"model.rope_theta=50000"});
  const LoadedRun run = load_run(folder_.write("planned.yaml", plan.points[1].yaml), {});
  EXPECT_EQ(run.config.model.rope_theta, 50000);
  EXPECT_EQ(run.hash, plan.points[1].config_hash);
  EXPECT_TRUE(plan.points[1].warnings.empty());  // of data.context_length too, which plays no part
}

TEST_F(SweepPlanTest, ShippedSweepsAreValid) {
  const fs::path source = DGA_SOURCE_DIR;
  int64_t count = 0;
  for (const auto& entry : fs::directory_iterator(source / "configs/sweep")) {
    ++count;
    try {
      // In the place of the quickstart's model, which is made first.
      const SweepPlan shipped =
          read_sweep(entry.path(), {"model.path=" + (source / "configs/llama2_7b_shape").string()});
      EXPECT_GE(shipped.points.size(), 3U) << entry.path();
      for (const SweepPoint& point : shipped.points) EXPECT_TRUE(point.warnings.empty()) << point.name;
    } catch (const Error& e) {
      ADD_FAILURE() << entry.path() << ": " << e.what();
    }
  }
  EXPECT_GE(count, 4);
}

}  // namespace
}  // namespace dga

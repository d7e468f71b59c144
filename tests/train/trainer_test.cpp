#include "train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tiny_run.h"
#include "util/error.h"

namespace dga {
namespace {

at::Tensor weight(const Trainer& trainer, const std::string& name) {
  for (const NamedParameter& parameter : trainer.model().parameters()) {
    if (parameter.name == name) return parameter.value;
  }
  ADD_FAILURE() << "no parameter " << name;
  return {};
}

constexpr const char* kQuery = "model.layers.1.self_attn.q_proj.weight";
// Its gradient passes through autograd's hooks; those of the projections are added to the optimizer's sums at once.
constexpr const char* kNorm = "model.layers.1.input_layernorm.weight";

TEST(Trainer, LossFalls) {
  const TinyRun run;
  const auto trainer = run.trainer({"train.steps=40"});
  const double first = trainer->train_step().loss;
  double last = first;
  while (trainer->state().step < 40) last = trainer->train_step().loss;
  EXPECT_NEAR(first, std::log(64), 0.7);
  EXPECT_LT(last, first - 0.5);
}

TEST(Trainer, SameSeedSameBitsOtherSeedOthers) {
  const TinyRun run;
  const auto outcome = [&](const char* seed) {
    const auto trainer = run.trainer({seed});
    for (int i = 0; i < 3; ++i) trainer->train_step();
    return weights_of(trainer->model());
  };
  const auto first = outcome("run.seed=5");
  EXPECT_TRUE(changed_weights(first, outcome("run.seed=5")).empty());
  EXPECT_FALSE(changed_weights(first, outcome("run.seed=6")).empty());
}

TEST(Trainer, MicroBatchesDoNotChangeTheResult) {
  const TinyRun run;
  const auto records = [&](const std::string& rows) {
    const auto trainer = run.trainer({"train.micro_batch_size=" + rows, "data.document_masking=true"});
    std::vector<StepRecord> all;
    for (int i = 0; i < 5; ++i) all.push_back(trainer->train_step());
    return all;
  };
  const std::vector<StepRecord> whole = records("4");
  for (const char* rows : {"1", "2"}) {
    const std::vector<StepRecord> split = records(rows);
    for (size_t i = 0; i < whole.size(); ++i) {
      EXPECT_NEAR(split[i].loss, whole[i].loss, 2e-5) << rows << " step " << i;
      EXPECT_NEAR(split[i].grad_norm, whole[i].grad_norm, 2e-4) << rows << " step " << i;
    }
  }
}

TEST(Trainer, RecomputationChangesNoBit) {
  const TinyRun run;
  const auto outcome = [&](const char* recompute) {
    const auto trainer = run.trainer({recompute, "attention.kind=dga", "attention.local_window=4"});
    for (int i = 0; i < 3; ++i) trainer->train_step();
    return weights_of(trainer->model());
  };
  EXPECT_TRUE(changed_weights(outcome("train.recompute=none"), outcome("train.recompute=block")).empty());
}

TEST(Trainer, MaskedLabelsAreLeftOut) {
  const TinyRun run;
  const auto trainer = run.trainer({"data.document_masking=true"});
  const StepRecord first = trainer->train_step(), second = trainer->train_step();
  EXPECT_LT(first.labels, 4 * TinyRun::kContext);
  EXPECT_GT(first.labels, 0);
  EXPECT_EQ(second.tokens, 2 * 4 * TinyRun::kContext);
  EXPECT_TRUE(std::isfinite(second.loss));
  EXPECT_EQ(run.trainer()->train_step().labels, 4 * TinyRun::kContext);
}

TEST(Trainer, ZLossIsReportedApart) {
  const TinyRun run;
  const StepRecord with = run.trainer({"train.z_loss=0.01"})->train_step(), without = run.trainer()->train_step();
  EXPECT_DOUBLE_EQ(with.loss, without.loss);
  EXPECT_GT(with.z_loss, 0.05);
  EXPECT_EQ(without.z_loss, 0.0);
}

TEST(Trainer, PatternsFreezeTheRest) {
  const TinyRun run;
  const auto trainer = run.trainer({"train.trainable=[\"*.self_attn.[qkvo]_proj.weight\"]"});
  const auto before = weights_of(trainer->model());
  trainer->train_step();
  trainer->train_step();
  const auto changed = changed_weights(before, weights_of(trainer->model()));
  EXPECT_EQ(changed.size(), 8U);
  for (const std::string& name : changed) EXPECT_NE(name.find(".self_attn."), std::string::npos) << name;
  EXPECT_THROW(run.trainer({"train.trainable=[\"*.q_projection.weight\"]"}), Error);
}

TEST(Trainer, NonFiniteLossStopsBeforeTheWeightsChange) {
  const TinyRun run;
  const auto trainer = run.trainer({"train.micro_batch_size=2"});
  trainer->train_step();
  {
    const at::NoGradGuard no_grad;
    weight(*trainer, kQuery)[0][0].fill_(std::numeric_limits<float>::quiet_NaN());
  }
  const auto before = weights_of(trainer->model());
  try {
    trainer->train_step();
    FAIL() << "trained on";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.code(), ExitCode::numerics);
    EXPECT_NE(message.find("step 2"), std::string::npos) << message;
    EXPECT_NE(message.find("the loss is"), std::string::npos) << message;
    EXPECT_NE(message.find("tiny: "), std::string::npos) << message;
    EXPECT_NE(message.find(".u16:"), std::string::npos) << message;
  }
  EXPECT_TRUE(changed_weights(before, weights_of(trainer->model())).empty());
  EXPECT_EQ(trainer->state().step, 1);
}

// A GPU's host sees a step's numbers when the next step is already under way.
TEST(Trainer, StepsAfterANonFiniteOneChangeNoWeightEither) {
  const TinyRun run;
  const auto trainer = run.trainer();
  trainer->train_step();
  const at::Tensor query = weight(*trainer, kQuery);
  const float good = query[0][0].item<float>();
  const auto set = [&](float value) {
    const at::NoGradGuard no_grad;
    query[0][0].fill_(value);
  };
  const auto before = weights_of(trainer->model());
  set(std::numeric_limits<float>::quiet_NaN());
  Trainer::PendingStep bad = trainer->launch_step().value();
  const std::string documents = describe_documents(bad.batch, 0, 4);
  set(good);
  const Trainer::PendingStep next = trainer->launch_step().value();
  EXPECT_NE(describe_documents(next.batch, 0, 4), documents);
  try {
    trainer->complete(std::move(bad));
    FAIL() << "trained on";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("nan; no weight has changed since step 1"), std::string::npos) << message;
    EXPECT_NE(message.find(documents), std::string::npos) << message;
  }
  EXPECT_TRUE(changed_weights(before, weights_of(trainer->model())).empty());
  EXPECT_EQ(trainer->state().step, 1);
}

TEST(Trainer, NonFiniteNormStopsBeforeTheWeightsChange) {
  const TinyRun run;
  const auto trainer = run.trainer();
  bool poison = false;
  weight(*trainer, kNorm).register_hook([&](const at::Tensor& gradient) {
    return poison ? gradient * std::numeric_limits<double>::infinity() : gradient;
  });
  trainer->train_step();
  const auto before = weights_of(trainer->model());
  poison = true;
  try {
    trainer->train_step();
    FAIL() << "trained on";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::numerics);
    EXPECT_NE(std::string(error.what()).find("gradient norm"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("tiny: "), std::string::npos) << error.what();
  }
  EXPECT_TRUE(changed_weights(before, weights_of(trainer->model())).empty());
}

TEST(Trainer, OutlierStepsLeaveWeightsAlone) {
  const TinyRun run;
  const auto trainer = run.trainer({"train.skip_outliers={factor: 10, window: 8, min_steps: 3}"});
  double scale = 1;
  weight(*trainer, kNorm).register_hook([&](const at::Tensor& gradient) { return gradient * scale; });
  scale = 1e4;  // not judged yet
  EXPECT_FALSE(trainer->train_step().skipped);
  scale = 1;
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(trainer->train_step().skipped);
  const auto before = weights_of(trainer->model());
  scale = 1e4;
  const StepRecord outlier = trainer->train_step();
  EXPECT_TRUE(outlier.skipped);
  EXPECT_EQ(outlier.step, 5);
  EXPECT_TRUE(changed_weights(before, weights_of(trainer->model())).empty());
  scale = 1;
  EXPECT_FALSE(trainer->train_step().skipped);
  EXPECT_FALSE(changed_weights(before, weights_of(trainer->model())).empty());
  trainer->save();
  EXPECT_EQ(trainer->state().outliers.skipped, 1);
  EXPECT_EQ(trainer->state().optimizer_updates, 5);
}

TEST(Trainer, RunWritesALineAStep) {
  const TinyRun run;
  EXPECT_EQ(run.trainer({"checkpoint.every_steps=3"})->run(), ExitCode::ok);
  const auto lines = run.metrics();
  ASSERT_EQ(lines.size(), 8U);
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i].at("step"), i + 1);
    EXPECT_EQ(lines[i].at("tokens"), (i + 1) * 4 * TinyRun::kContext);
    for (const char* key : {"loss", "lr", "grad_norm", "tokens_per_s", "data_wait_ms"}) {
      EXPECT_TRUE(lines[i].at(key).is_number()) << key;
    }
  }
  EXPECT_DOUBLE_EQ(lines[0].at("lr").get<double>(), 0.005);
  EXPECT_NEAR(lines[7].at("lr").get<double>(), 0.001, 1e-12);
  std::vector<int64_t> kept;
  for (const CheckpointFolder& checkpoint : list_checkpoints(run.run_folder() / "checkpoints")) {
    kept.push_back(checkpoint.step);
  }
  EXPECT_EQ(kept, (std::vector<int64_t>{6, 8}));  // keep_last is 2
}

TEST(Trainer, LinesAfterTheCheckpointAppearOnce) {
  const TinyRun run;
  EXPECT_EQ(run.trainer({"train.steps=5", "schedule.kind=constant"})->run(), ExitCode::ok);
  const auto first = run.metrics();
  // As a kill after step 5 would leave it: lines beyond the checkpoint, the last one cut off.
  std::ofstream(run.run_folder() / "metrics.jsonl", std::ios::app) << R"({"step":6,"loss":1})"
                                                                   << "\n"
                                                                   << R"({"ste)";
  EXPECT_EQ(run.trainer({"schedule.kind=constant"})->run(), ExitCode::ok);
  const auto lines = run.metrics();
  ASSERT_EQ(lines.size(), 8U);
  for (size_t i = 0; i < lines.size(); ++i) EXPECT_EQ(lines[i].at("step"), i + 1);
  for (size_t i = 0; i < first.size(); ++i) EXPECT_EQ(lines[i], first[i]);
}

TEST(Trainer, EvaluatesOnHeldOutText) {
  const TinyRun run;
  const std::vector<std::string> settings = {"eval.every_steps=3",
                                             "eval.sources=" + run.held_out_source(),
                                             "eval.context_lengths=[16, 32]",
                                             "eval.stride=8",
                                             "eval.bos=false",
                                             "eval.eos=false"};
  EXPECT_EQ(run.trainer(settings)->run(), ExitCode::ok);
  const auto lines = run.metrics();
  for (const auto& line : lines) {
    const int64_t step = line.at("step").get<int64_t>();
    const bool expected = step == 3 || step == 6 || step == 8;
    EXPECT_EQ(line.contains("eval"), expected) << step;
    EXPECT_EQ(std::filesystem::exists(run.run_folder() / ("eval/step-" + std::to_string(step) + ".json")), expected);
    if (!expected) continue;
    ASSERT_EQ(line.at("eval").size(), 2U);
    EXPECT_EQ(line.at("eval")[1].at("context_length"), 32);
    EXPECT_GT(line.at("eval")[1].at("perplexity").get<double>(), 1.0);
  }
  // Evaluation between the steps must not change them.
  const TinyRun without;
  EXPECT_EQ(without.trainer()->run(), ExitCode::ok);
  for (size_t i = 0; i < lines.size(); ++i) EXPECT_EQ(lines[i].at("loss"), without.metrics()[i].at("loss"));
}

TEST(Trainer, FailingCheckpointDoesNotStopTrainingButTheEndSaysSo) {
  const TinyRun run;
  const auto trainer = run.trainer({"checkpoint.every_steps=2"});
  std::ofstream(run.run_folder() / "checkpoints") << "a file where the folder should be";
  EXPECT_THROW(trainer->run(), Error);
  EXPECT_EQ(run.metrics().size(), 8U);
}

}  // namespace
}  // namespace dga

// A run that is stopped and continued must have the losses and weights of one that was not, bit for bit.
#include <gtest/gtest.h>

#include "tiny_run.h"
#include "util/error.h"

namespace dga {
namespace {

constexpr int64_t kSteps = 8;

/// Small batches and a limit just above the median, so that some of the first steps are skipped.
const std::vector<std::string> kSkipOften = {"train.skip_outliers={factor: 1.001, window: 3, min_steps: 1}",
                                             "train.global_batch_size=1", "train.micro_batch_size=1"};

struct Outcome {
  std::vector<double> losses, norms;
  std::map<std::string, at::Tensor> weights;
};

void step(Trainer& trainer, int64_t until, Outcome& outcome) {
  while (trainer.state().step < until) {
    const StepRecord record = trainer.train_step();
    outcome.losses.push_back(record.loss);
    outcome.norms.push_back(record.grad_norm);
  }
  outcome.weights = weights_of(trainer.model());
}

/// Trains to the end in one process, or in several that end at the given steps.
Outcome train_with_stops(const std::vector<std::string>& settings, std::vector<int64_t> stops) {
  const TinyRun run;
  Outcome outcome;
  stops.push_back(kSteps);
  for (const int64_t stop : stops) {
    const std::unique_ptr<Trainer> trainer = run.trainer(settings);
    step(*trainer, stop, outcome);
    trainer->save();
    trainer->finish_saving();
  }
  return outcome;
}

class Resume : public ::testing::TestWithParam<std::pair<const char*, std::vector<std::string>>> {};

TEST_P(Resume, GivesTheSameBits) {
  const std::vector<std::string>& settings = GetParam().second;
  const Outcome expected = train_with_stops(settings, {});
  ASSERT_EQ(expected.losses.size(), static_cast<size_t>(kSteps));
  EXPECT_NE(expected.losses.front(), expected.losses.back());
  for (const std::vector<int64_t>& stops : {std::vector<int64_t>{1}, {4}, {7}, {2, 5}, {3, 3, 6}}) {
    const Outcome resumed = train_with_stops(settings, stops);
    EXPECT_EQ(resumed.losses, expected.losses) << "first stop at " << stops[0];
    EXPECT_EQ(resumed.norms, expected.norms) << "first stop at " << stops[0];
    EXPECT_EQ(changed_weights(expected.weights, resumed.weights), std::vector<std::string>{}) << stops[0];
  }
}

INSTANTIATE_TEST_SUITE_P(
    , Resume,
    ::testing::Values(
        std::pair("plain", std::vector<std::string>{}),
        std::pair("accumulated", std::vector<std::string>{"train.micro_batch_size=1"}),
        std::pair("recomputed", std::vector<std::string>{"train.micro_batch_size=2", "train.recompute=block"}),
        std::pair("bf16", std::vector<std::string>{"train.dtype=bf16"}),
        std::pair("bf16_accumulated", std::vector<std::string>{"train.dtype=bf16", "train.micro_batch_size=1"}),
        std::pair("moments_bf16", std::vector<std::string>{"optimizer.moments=bf16"}),
        std::pair("moments_int8", std::vector<std::string>{"optimizer.moments=int8"}),
        std::pair("bf16_moments_bf16", std::vector<std::string>{"train.dtype=bf16", "optimizer.moments=bf16"}),
        std::pair("bf16_moments_int8", std::vector<std::string>{"train.dtype=bf16", "optimizer.moments=int8",
                                                                "checkpoint.background=false"}),
        std::pair("tied_z_loss_documents",
                  std::vector<std::string>{"model.tie_word_embeddings=true", "train.z_loss=0.001",
                                           "data.document_masking=true"}),
        std::pair("dga_global",
                  std::vector<std::string>{"attention.kind=dga", "attention.group_size=3", "attention.local_window=4",
                                           "attention.sampled_queries=8", "attention.group_bias=entropy"}),
        std::pair("dga_random",
                  std::vector<std::string>{"attention.kind=dga", "attention.selection=random", "attention.group_size=3",
                                           "attention.local_window=4", "data.document_masking=true"}),
        std::pair("dga_causal",
                  std::vector<std::string>{"attention.kind=dga", "attention.selection=causal", "attention.block_size=4",
                                           "attention.local_blocks=1", "attention.group_size=2"}),
        std::pair("frozen_live_snapshot",
                  std::vector<std::string>{"train.trainable=[\"*_proj.weight\"]", "checkpoint.background=false"}),
        std::pair("outliers", kSkipOften)),
    [](const auto& test) { return test.param.first; });

TEST(ResumeState, OutlierWindowAndCountGoOn) {
  const std::vector<std::string>& settings = kSkipOften;
  const TinyRun run, other;
  const auto whole = run.trainer(settings);
  Outcome unused;
  step(*whole, 6, unused);
  whole->save();
  auto part = other.trainer(settings);
  step(*part, 3, unused);
  part->save();
  part->finish_saving();
  part = other.trainer(settings);
  step(*part, 6, unused);
  part->save();
  EXPECT_GT(whole->state().outliers.skipped, 0);
  EXPECT_EQ(part->state().outliers.skipped, whole->state().outliers.skipped);
  EXPECT_EQ(part->state().outliers.norms, whole->state().outliers.norms);
  EXPECT_EQ(part->state().optimizer_updates, 6 - whole->state().outliers.skipped);
  EXPECT_EQ(part->state().tokens, 6 * TinyRun::kContext);
}

TEST(ResumeState, DamagedNewestCheckpointIsPassedOver) {
  const TinyRun run;
  Outcome outcome;
  {
    const auto trainer = run.trainer();
    for (const int64_t stop : {2, 4}) {
      step(*trainer, stop, outcome);
      trainer->save();
    }
    trainer->finish_saving();
  }
  std::ofstream(run.run_folder() / "checkpoints/step-4/optimizer.safetensors", std::ios::app) << "x";
  const auto trainer = run.trainer();
  EXPECT_EQ(trainer->state().step, 2);
  Outcome again;
  step(*trainer, 4, again);
  EXPECT_EQ(again.losses[1], outcome.losses[3]);
  trainer->save();  // replaces the damaged one
  trainer->finish_saving();
  EXPECT_EQ(run.trainer()->state().step, 4);

  for (const char* name : {"step-2", "step-4"}) {
    std::filesystem::remove(run.run_folder() / "checkpoints" / name / "manifest.json");
  }
  EXPECT_THROW(run.trainer(), Error);
}

TEST(Checkpoint, IsAHuggingFaceFolder) {
  const TinyRun run;
  std::map<std::string, at::Tensor> expected;
  {
    const auto trainer = run.trainer();
    trainer->train_step();
    trainer->save();
    expected = weights_of(trainer->model());
  }
  const std::string folder = (run.run_folder() / "checkpoints/step-1").string();
  const TinyRun next;
  // The next run starts from the folder alone, with nothing about the shape in its config.
  std::ofstream(next.config_file()) << "data: {context_length: 32, bos: false, eos: false}\nrun: {device: cpu}\n"
                                       "schedule: {kind: constant}\n";
  const auto trainer = next.trainer({"model.path=" + folder});
  EXPECT_EQ(trainer->state().step, 0);
  EXPECT_EQ(changed_weights(expected, weights_of(trainer->model())), std::vector<std::string>{});
}

TEST(Checkpoint, BackgroundCopyIsNotChangedByLaterSteps) {
  const TinyRun run;
  const auto trainer = run.trainer();
  trainer->train_step();
  trainer->save();
  const auto saved = weights_of(trainer->model());
  for (int i = 0; i < 3; ++i) trainer->train_step();
  trainer->finish_saving();
  EXPECT_FALSE(changed_weights(saved, weights_of(trainer->model())).empty());
  EXPECT_EQ(changed_weights(saved, weights_of(run.trainer()->model())), std::vector<std::string>{});
}

}  // namespace
}  // namespace dga

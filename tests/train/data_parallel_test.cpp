// Training with several ranks is the training of one: the same global batches, losses, norms and weights.
#include <gtest/gtest.h>

#include <csignal>
#include <functional>
#include <limits>
#include <mutex>

#include "support/thread_communicator.h"
#include "tiny_run.h"
#include "util/error.h"
#include "util/signals.h"

namespace dga {
namespace {

using testing::run_ranks;
using Settings = std::vector<std::string>;

struct Course {
  std::vector<StepRecord> records;  // of the first rank
  std::map<std::string, at::Tensor> weights;
};

/// Runs `work` with a trainer on each rank. All ranks must end with weights of the same bits.
Course course_of(const TinyRun& run, int64_t world_size, const Settings& settings,
                 const std::function<std::vector<StepRecord>(Trainer&, Communicator&)>& work) {
  Course course;
  std::mutex mutex;
  run_ranks(world_size, [&](Communicator& ranks) {
    const LoadedRun loaded = run.load(settings);
    std::filesystem::create_directories(run.run_folder());
    Trainer trainer(loaded, assemble(loaded, std::nullopt, ranks), ranks);
    const std::vector<StepRecord> records = work(trainer, ranks);
    const std::lock_guard lock(mutex);
    if (ranks.is_first()) course.records = records;
    const auto weights = weights_of(trainer.model());
    if (course.weights.empty()) course.weights = weights;
    DGA_CHECK(changed_weights(course.weights, weights).empty(), "rank ", ranks.rank(), " has other weights");
  });
  return course;
}

Course train(const TinyRun& run, int64_t world_size, const Settings& settings, int64_t steps = 6) {
  return course_of(run, world_size, settings, [steps](Trainer& trainer, Communicator&) {
    std::vector<StepRecord> records;
    for (int64_t i = 0; i < steps; ++i) records.push_back(trainer.train_step());
    return records;
  });
}

void expect_close(const Course& actual, const Course& expected, double tolerance, const std::string& what) {
  ASSERT_EQ(actual.records.size(), expected.records.size());
  for (size_t i = 0; i < expected.records.size(); ++i) {
    const StepRecord &a = actual.records[i], &e = expected.records[i];
    EXPECT_NEAR(a.loss / e.loss, 1, tolerance) << what << ", step " << e.step;
    EXPECT_NEAR(a.grad_norm / e.grad_norm, 1, tolerance) << what << ", step " << e.step;
    EXPECT_NEAR(a.z_loss, e.z_loss, tolerance * e.loss) << what << ", step " << e.step;
    EXPECT_EQ(a.labels, e.labels) << what << ", step " << e.step;
    EXPECT_EQ(a.tokens, e.tokens) << what << ", step " << e.step;
    EXPECT_EQ(a.skipped, e.skipped) << what << ", step " << e.step;
    EXPECT_DOUBLE_EQ(a.flops, e.flops) << what << ", step " << e.step;
  }
  for (const auto& [name, weight] : expected.weights) {
    const at::Tensor e = weight.to(at::kDouble), off = actual.weights.at(name).to(at::kDouble) - e;
    EXPECT_LE(off.norm().item<double>(), tolerance * e.norm().item<double>()) << what << ", " << name;
  }
}

constexpr const char* kLevels[] = {"parallel.shard=none", "parallel.shard=optimizer",
                                   "parallel.shard=optimizer_gradients"};

Settings with(Settings settings, const Settings& more) {
  settings.insert(settings.end(), more.begin(), more.end());
  return settings;
}

/// What all runs here share; documents of different length in each rank's rows, so that its labels differ.
const Settings kBase = {"train.global_batch_size=8", "train.micro_batch_size=2", "data.document_masking=true",
                        "train.z_loss=0.001", "optimizer.epsilon=1e-4"};

void compare_worlds(const TinyRun& run, const Settings& settings, double tolerance, const std::vector<int64_t>& worlds,
                    const std::vector<std::string>& micro_batches) {
  const Course expected = train(run, 1, with(kBase, settings));
  for (const int64_t world_size : worlds) {
    for (const std::string& rows : micro_batches) {
      for (const char* level : kLevels) {
        const Settings all = with(with(kBase, settings), {level, "train.micro_batch_size=" + rows});
        std::string what = str(world_size, " ranks, ", level, ", micro-batches of ", rows);
        for (const std::string& setting : settings) what += ", " + setting;
        expect_close(train(run, world_size, all), expected, tolerance, what);
      }
    }
  }
}

TEST(DataParallelTraining, CurvesAgreeAtEveryNumberOfRanksAndLevel) {
  const TinyRun run;
  compare_worlds(run, {}, 1e-6, {2, 4}, {"1", "2"});
}

TEST(DataParallelTraining, CurvesInBfloat16AreClose) {
  const TinyRun run;
  compare_worlds(run, {"train.dtype=bf16"}, 5e-3, {2, 4}, {"1", "2"});
  compare_worlds(run, {"train.dtype=bf16", "parallel.reduce=bf16"}, 1e-2, {2}, {"1"});
}

TEST(DataParallelTraining, UnderEveryMemoryPlan) {
  const TinyRun run;
  for (const char* recompute : {"train.recompute=none", "train.recompute=selective", "train.recompute=block"}) {
    compare_worlds(run, {recompute, "attention.kind=dga", "attention.local_window=4"}, 1e-6, {2}, {"2"});
    compare_worlds(run, {recompute, "train.mlp_tile_tokens=20"}, 1e-6, {2}, {"2"});
  }
}

TEST(DataParallelTraining, WithTiedEmbeddingsAndFrozenParameters) {
  const TinyRun run;
  compare_worlds(run, {"model.tie_word_embeddings=true"}, 1e-6, {2}, {"2", "4"});
  compare_worlds(run, {"train.trainable=[\"*.self_attn.[qv]_proj.weight\", \"*norm*\"]"}, 1e-6, {2}, {"2"});
}

TEST(DataParallelTraining, WithNarrowMoments) {
  const TinyRun run;
  compare_worlds(run, {"optimizer.moments=bf16"}, 1e-3, {2}, {"2"});
  compare_worlds(run, {"optimizer.moments=int8", "optimizer.decay_norms_and_embeddings=true"}, 1e-2, {2}, {"2"});
}

/// The host a step ahead, as on a GPU: the weights of other ranks' parts arrive during the next forward pass.
std::vector<StepRecord> run_ahead(Trainer& trainer, int64_t steps) {
  std::vector<StepRecord> records;
  std::optional<Trainer::PendingStep> before;
  for (int64_t i = 0; i < steps; ++i) {
    Trainer::PendingStep step = trainer.launch_step().value();
    if (before) records.push_back(trainer.complete(std::move(*before)));
    before = std::move(step);
  }
  records.push_back(trainer.complete(std::move(*before)));
  return records;
}

TEST(DataParallelTraining, WeightsArriveDuringTheNextForwardPass) {
  const TinyRun run;
  for (const Settings& settings : {Settings{}, Settings{"model.tie_word_embeddings=true", "train.micro_batch_size=4"},
                                   Settings{"train.trainable=[\"*.self_attn.[qv]_proj.weight\", \"*norm*\"]"},
                                   Settings{"optimizer.decay_norms_and_embeddings=true", "train.recompute=block"}}) {
    const Course expected = train(run, 1, with(kBase, settings));
    for (const char* level : kLevels) {
      const Course ahead = course_of(run, 2, with(with(kBase, settings), {level}),
                                     [](Trainer& trainer, Communicator&) { return run_ahead(trainer, 6); });
      expect_close(ahead, expected, 1e-6, str(level, settings.empty() ? "" : ", " + settings.front()));
    }
  }
}

/// Counts the gathers that have begun and that nobody has waited for.
class GatherCounter final : public Communicator {
 public:
  explicit GatherCounter(Communicator& ranks) : ranks_(ranks) {}
  int64_t open() const { return *open_; }

  int64_t rank() const override { return ranks_.rank(); }
  int64_t world_size() const override { return ranks_.world_size(); }
  std::unique_ptr<PendingCollective> all_reduce(at::Tensor numbers, Reduction reduction) override {
    return ranks_.all_reduce(std::move(numbers), reduction);
  }
  std::unique_ptr<PendingCollective> reduce_scatter(at::Tensor output, const at::Tensor& input) override {
    return ranks_.reduce_scatter(std::move(output), input);
  }
  std::unique_ptr<PendingCollective> all_gather(at::Tensor output, const at::Tensor& input) override {
    ++*open_;
    return std::make_unique<Counted>(ranks_.all_gather(std::move(output), input), open_);
  }
  std::vector<std::string> exchange(const std::string& topic, const std::string& text) override {
    return ranks_.exchange(topic, text);
  }
  void set_step(int64_t step) override { ranks_.set_step(step); }

 private:
  struct Counted final : PendingCollective {
    Counted(std::unique_ptr<PendingCollective> the_pending, std::shared_ptr<int64_t> the_open)
        : pending(std::move(the_pending)), open(std::move(the_open)) {}
    void wait() override {
      --*open;
      pending->wait();
    }
    std::unique_ptr<PendingCollective> pending;
    std::shared_ptr<int64_t> open;
  };

  Communicator& ranks_;
  std::shared_ptr<int64_t> open_ = std::make_shared<int64_t>(0);
};

TEST(DataParallelTraining, CompletingAStepWaitsForNoWeightsOfTheOneUnderWay) {
  const TinyRun run;
  const LoadedRun config = run.load(with(kBase, {"parallel.shard=optimizer", "parallel.bucket_mib=1"}));
  std::filesystem::create_directories(run.run_folder());
  run_ranks(2, [&](Communicator& ranks) {
    GatherCounter counter(ranks);
    Trainer trainer(config, assemble(config, std::nullopt, counter), counter);
    Trainer::PendingStep first = trainer.launch_step().value(), second = trainer.launch_step().value();
    const int64_t gathers = counter.open();
    DGA_CHECK(gathers > 0, "nothing is gathered");
    trainer.complete(std::move(first));
    DGA_CHECK(counter.open() == gathers, "completing a step waited for ", gathers - counter.open(), " gathers");
    trainer.complete(std::move(second));
    DGA_CHECK(counter.open() == 0, counter.open(), " gathers are left");
  });
}

at::Tensor weight(const Trainer& trainer, const std::string& name) {
  for (const NamedParameter& parameter : trainer.model().parameters()) {
    if (parameter.name == name) return parameter.value;
  }
  fail(ExitCode::failure, "no parameter ", name);
}
constexpr const char* kNorm = "model.layers.1.input_layernorm.weight";

TEST(DataParallelTraining, AllRanksSkipAnOutlierOfOne) {
  const TinyRun run;
  for (const char* level : kLevels) {
    const Settings settings = with(kBase, {level, "train.skip_outliers={factor: 10, window: 8, min_steps: 3}"});
    const Course course = course_of(run, 2, settings, [](Trainer& trainer, Communicator& ranks) {
      double scale = 1;
      weight(trainer, kNorm).register_hook([&](const at::Tensor& gradient) { return gradient * scale; });
      std::vector<StepRecord> records;
      for (int64_t step = 1; step <= 6; ++step) {
        scale = step == 5 && ranks.rank() == 1 ? 1e4 : 1;
        const auto before = weights_of(trainer.model());
        records.push_back(trainer.train_step());
        const bool unchanged = changed_weights(before, weights_of(trainer.model())).empty();
        DGA_CHECK(records.back().skipped == (step == 5) && unchanged == (step == 5), "step ", step, " of rank ",
                  ranks.rank());
      }
      return records;
    });
    EXPECT_EQ(course.records.size(), 6U);
  }
}

/// The messages of all ranks of a run that a NaN in rank 1's loss ends.
std::vector<std::string> messages_of_bad_loss(const TinyRun& run, const char* level) {
  std::vector<std::string> messages(3);
  course_of(run, 3, {level, "train.global_batch_size=6", "train.micro_batch_size=1"},
            [&](Trainer& trainer, Communicator& ranks) {
              trainer.train_step();
              const at::Tensor poisoned = weight(trainer, kNorm);
              const float good = poisoned[0].item<float>();
              const auto set = [&](float value) {
                const at::NoGradGuard no_grad;
                poisoned[0].fill_(value);
              };
              const auto before = weights_of(trainer.model());
              if (ranks.rank() == 1) set(std::numeric_limits<float>::quiet_NaN());
              Trainer::PendingStep bad = trainer.launch_step().value();
              set(good);
              // As a GPU's host does: the next step is under way when the numbers are seen.
              Trainer::PendingStep next = trainer.launch_step().value();
              try {
                trainer.complete(std::move(bad));
              } catch (const Error& error) {
                DGA_CHECK(error.code() == ExitCode::numerics, error.what());
                messages[ranks.rank()] = error.what();
              }
              set(good);
              DGA_CHECK(changed_weights(before, weights_of(trainer.model())).empty(), "a weight has changed");
              return std::vector<StepRecord>();
            });
  return messages;
}

TEST(DataParallelTraining, OneRanksBadLossEndsAllAndNoWeightChanges) {
  const TinyRun run;
  for (const char* level : kLevels) {
    const std::vector<std::string> messages = messages_of_bad_loss(run, level);
    for (const std::string& message : messages) {
      EXPECT_NE(message.find("step 2: the loss is nan"), std::string::npos) << message;
      EXPECT_NE(message.find("Rows 2 and on of the batch: tiny: "), std::string::npos) << message;
    }
  }
}

TEST(DataParallelTraining, TheFirstRankTellsOfTheStepsOfAll) {
  const TinyRun run;
  train(run, 2, kBase, 3);
  const auto lines = run.metrics();
  ASSERT_EQ(lines.size(), 0U);  // train_step() alone reports nothing
  course_of(run, 2, with(kBase, {"train.steps=3"}), [](Trainer& trainer, Communicator&) {
    DGA_CHECK(trainer.run() == ExitCode::ok, "not ok");
    return std::vector<StepRecord>();
  });
  const auto reported = run.metrics();
  ASSERT_EQ(reported.size(), 3U);
  for (size_t i = 0; i < reported.size(); ++i) {
    EXPECT_EQ(reported[i].at("step"), i + 1);
    EXPECT_EQ(reported[i].at("tokens"), (i + 1) * 8 * TinyRun::kContext);
    EXPECT_EQ(reported[i].at("ranks"), 2);
    EXPECT_GE(reported[i].at("reduce_ms").get<double>(), 0);
    EXPECT_GT(reported[i].at("reduced_bytes").get<int64_t>(), 4 * 5000);
  }
}

}  // namespace
}  // namespace dga

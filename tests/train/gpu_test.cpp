// Training on a GPU: the CUDA optimizer, the host a step behind, resuming bit for bit.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tiny_run.h"
#include "util/error.h"

namespace dga {
namespace {

/// bf16 with head dim 64, so that the attention kernels run where the GPU is a Hopper.
std::vector<std::string> gpu_settings(std::vector<std::string> more = {}) {
  std::vector<std::string> settings = {"run.device=cuda",
                                       "train.dtype=bf16",
                                       "model.hidden_size=128",
                                       "model.head_dim=64",
                                       "model.num_attention_heads=2",
                                       "model.num_key_value_heads=1",
                                       "model.intermediate_size=256",
                                       "data.context_length=128",
                                       "train.steps=8"};
  settings.insert(settings.end(), more.begin(), more.end());
  return settings;
}

class TrainerGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no GPU";
  }
};

struct Outcome {
  std::vector<double> losses, norms;
  std::map<std::string, at::Tensor> weights;
};

Outcome train_with_stops(const std::vector<std::string>& settings, std::vector<int64_t> stops) {
  const TinyRun run;
  Outcome outcome;
  stops.push_back(8);
  for (const int64_t stop : stops) {
    const std::unique_ptr<Trainer> trainer = run.trainer(settings);
    while (trainer->state().step < stop) {
      const StepRecord record = trainer->train_step();
      outcome.losses.push_back(record.loss);
      outcome.norms.push_back(record.grad_norm);
    }
    outcome.weights = weights_of(trainer->model());
    trainer->save();
    trainer->finish_saving();
  }
  return outcome;
}

TEST_F(TrainerGpu, AResumedRunHasTheSameBits) {
  for (const char* moments : {"fp32", "bf16", "int8"}) {
    for (const char* rows : {"4", "2"}) {  // without and with accumulation
      const std::vector<std::string> settings =
          gpu_settings({str("optimizer.moments=", moments), str("train.micro_batch_size=", rows)});
      const Outcome expected = train_with_stops(settings, {}), resumed = train_with_stops(settings, {3, 5});
      EXPECT_LT(expected.losses.back(), expected.losses.front()) << moments;
      EXPECT_EQ(resumed.losses, expected.losses) << moments << " rows " << rows;
      EXPECT_EQ(resumed.norms, expected.norms) << moments << " rows " << rows;
      EXPECT_TRUE(changed_weights(expected.weights, resumed.weights).empty()) << moments << " rows " << rows;
    }
  }
}

TEST_F(TrainerGpu, AResumedRunOfDgaHasTheSameBits) {
  for (const char* recompute : {"none", "selective", "block"}) {
    const std::vector<std::string> settings =
        gpu_settings({"attention.kind=dga", "attention.group_size=4", "attention.local_window=16",
                      "attention.sampled_queries=32", "attention.group_bias=entropy", "data.document_masking=true",
                      "train.micro_batch_size=2", "optimizer.moments=int8", str("train.recompute=", recompute)});
    const Outcome expected = train_with_stops(settings, {}), resumed = train_with_stops(settings, {3, 5});
    EXPECT_EQ(resumed.losses, expected.losses) << recompute;
    EXPECT_TRUE(changed_weights(expected.weights, resumed.weights).empty()) << recompute;
  }
}

TEST_F(TrainerGpu, OptimizerStateOnTheHostChangesNoBit) {
  for (const char* moments : {"fp32", "bf16", "int8"}) {
    const std::string kind = str("optimizer.moments=", moments);
    const Outcome expected = train_with_stops(gpu_settings({kind}), {});
    for (const std::vector<int64_t>& stops : {std::vector<int64_t>{}, {3, 5}}) {
      const Outcome offloaded = train_with_stops(gpu_settings({kind, "optimizer.offload=host"}), stops);
      EXPECT_EQ(offloaded.losses, expected.losses) << moments;
      EXPECT_TRUE(changed_weights(expected.weights, offloaded.weights).empty()) << moments;
    }
  }
}

TEST_F(TrainerGpu, NamesTheDocumentsOfANonFiniteStepWhenTheNextIsUnderWay) {
  const TinyRun run;
  const auto trainer = run.trainer(gpu_settings());
  trainer->train_step();
  at::Tensor query;
  for (const NamedParameter& parameter : trainer->model().parameters()) {
    if (parameter.name == "model.layers.1.self_attn.q_proj.weight") query = parameter.value.detach();
  }
  const at::Tensor good = query[0][0].clone();
  const auto before = weights_of(trainer->model());
  query[0][0].fill_(std::numeric_limits<float>::quiet_NaN());
  Trainer::PendingStep bad = trainer->launch_step().value();
  const std::string documents = describe_documents(bad.batch, 0, 4);
  query[0][0].copy_(good);
  const Trainer::PendingStep next = trainer->launch_step().value();
  try {
    trainer->complete(std::move(bad));
    FAIL() << "trained on";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::numerics);
    EXPECT_NE(std::string(error.what()).find("no weight has changed since step 1"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find(documents), std::string::npos) << error.what();
  }
  EXPECT_TRUE(changed_weights(before, weights_of(trainer->model())).empty());
}

TEST_F(TrainerGpu, TheWholeRunWritesEveryStepOnceAndInOrder) {
  const TinyRun run;
  const auto trainer = run.trainer(gpu_settings({"checkpoint.every_steps=3", "log.every_steps=2"}));
  EXPECT_EQ(trainer->run(), ExitCode::ok);
  const std::vector<nlohmann::json> lines = run.metrics();
  ASSERT_EQ(lines.size(), 8U);
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i]["step"], i + 1);
    EXPECT_EQ(lines[i]["tokens"], (i + 1) * 4 * 128);
    EXPECT_GT(lines[i]["step_ms"].get<double>(), 0);
  }
}

double rms_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

// The same run on the CPU, whose optimizer is LibTorch's: what bf16 costs there, it may cost twice here.
TEST_F(TrainerGpu, FollowsTheCpu) {
  for (const char* moments : {"fp32", "bf16", "int8"}) {
    const auto losses = [&](const char* device, const char* dtype) {
      return train_with_stops(gpu_settings({str("run.device=", device), str("train.dtype=", dtype),
                                            str("optimizer.moments=", moments)}),
                              {})
          .losses;
    };
    const std::vector<double> exact = losses("cpu", "fp32");
    EXPECT_LE(rms_difference(losses("cuda", "bf16"), exact), 2 * rms_difference(losses("cpu", "bf16"), exact))
        << moments;
  }
}

/// Losses of 50 steps at 1024 tokens with these settings.
std::vector<double> losses_of_fifty_steps(const std::vector<std::string>& settings) {
  const TinyRun run;
  std::vector<std::string> all = gpu_settings(
      {"data.context_length=1024", "train.steps=50", "train.micro_batch_size=2", "optimizer.learning_rate=0.003"});
  all.insert(all.end(), settings.begin(), settings.end());
  const auto trainer = run.trainer(all);
  std::vector<double> losses;
  while (trainer->state().step < 50) losses.push_back(trainer->train_step().loss);
  return losses;
}

// The kernels may be as far from fp32 as twice what bf16 costs the plain formulas.
TEST_F(TrainerGpu, LossesOfFiftySteps) {
  const std::vector<std::vector<std::string>> kinds = {
      {"attention.kind=full"},
      {"attention.kind=dga", "attention.group_size=16", "attention.focal_ratio=0.1", "attention.sampled_queries=256",
       "attention.local_window=128", "attention.group_bias=entropy"},
      {"attention.kind=dga", "attention.group_size=16", "attention.focal_ratio=0.1", "attention.sampled_queries=256",
       "attention.local_window=0"}};
  for (const std::vector<std::string>& kind : kinds) {
    const auto losses = [&](const char* backend, const char* dtype) {
      std::vector<std::string> settings = kind;
      settings.insert(settings.end(), {str("attention.backend=", backend), str("train.dtype=", dtype)});
      return losses_of_fifty_steps(settings);
    };
    const std::vector<double> exact = losses("reference", "fp32");
    const double plain = rms_difference(losses("reference", "bf16"), exact);
    const double kernels = rms_difference(losses("kernel", "bf16"), exact);
    std::printf("%s %s: rms of the losses' difference from fp32 over 50 steps: kernels %.2e, plain bf16 %.2e\n",
                kind.front().c_str(), kind.size() > 5 ? kind[5].c_str() : "", kernels, plain);
    EXPECT_LT(exact.back(), 0.95 * exact.front());
    EXPECT_LE(kernels, 2 * plain);
  }
}

}  // namespace
}  // namespace dga

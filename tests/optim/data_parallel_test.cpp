// Several ranks must do what one does with the same gradients. The gradients here are small whole numbers, whose sums
// are exact in any order and type, so weights and state have the same bits whatever the number of ranks, level, bucket
// size, type of reduction and split into passes.
#include "optim/data_parallel.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <mutex>

#include "optim/adamw.h"
#include "support/thread_communicator.h"
#include "util/random.h"

namespace dga {
namespace {

using testing::run_ranks;

constexpr int64_t kParts = 36;  // of a step's gradient, shared among ranks and passes

struct Case {
  int64_t ranks = 1, passes = 1;
  ShardLevel level = ShardLevel::none;
  ReduceType reduce = ReduceType::fp32;
  int64_t bucket_bytes = 4096;
  at::ScalarType type = at::kFloat;
  MomentsKind moments = MomentsKind::fp32;
  bool all_decay = false;

  std::string name() const {
    return str(ranks, " ranks, ", passes, " passes, level ", static_cast<int>(level), ", reduce ",
               static_cast<int>(reduce), ", buckets of ", bucket_bytes, ", ", c10::toString(type), ", moments ",
               static_cast<int>(moments), all_decay ? ", all decay" : "");
  }
};

/// Whole numbers in [-7, 7].
at::Tensor whole_numbers(std::initializer_list<uint64_t> key, at::IntArrayRef shape) {
  const CounterRng rng(key);
  at::Tensor numbers = at::empty(shape, at::kDouble);
  auto* to = numbers.mutable_data_ptr<double>();
  for (int64_t i = 0; i < numbers.numel(); ++i) to[i] = static_cast<double>(rng.bits(i) % 15) - 7;
  return numbers;
}

std::vector<TrainedParameter> make_parameters(at::ScalarType type) {
  const std::pair<const char*, std::vector<int64_t>> shapes[] = {{"model.embed_tokens.weight", {50, 16}},
                                                                 {"model.layers.0.input_layernorm.weight", {64}},
                                                                 {"model.layers.0.self_attn.q_proj.weight", {40, 64}},
                                                                 {"model.layers.0.mlp.up_proj.weight", {31, 7}},
                                                                 {"model.layers.1.input_layernorm.weight", {64}},
                                                                 {"model.layers.1.mlp.up_proj.weight", {300, 7}},
                                                                 {"model.norm.weight", {64}},
                                                                 {"lm_head.weight", {33, 31}}};
  std::vector<TrainedParameter> parameters;
  for (const auto& [name, shape] : shapes) {
    at::Tensor value = (whole_numbers({1, key_of(name)}, shape) / 64).to(type);
    parameters.push_back({name, value.set_requires_grad(true)});
  }
  return parameters;
}

/// Part `part` of a step's gradient of a parameter. The head's comes from a single part, that of layer 1's norm from
/// none in step 2.
at::Tensor gradient_of(const TrainedParameter& parameter, int64_t step, int64_t part) {
  const at::Tensor none = at::zeros(parameter.value.sizes(), at::kDouble);
  if (parameter.name == "lm_head.weight" && part != step % kParts) return none;
  if (parameter.name == "model.layers.1.input_layernorm.weight" && step == 2) return none;
  return whole_numbers({static_cast<uint64_t>(step), static_cast<uint64_t>(part), key_of(parameter.name)},
                       parameter.value.sizes());
}

struct Outcome {
  std::vector<at::Tensor> weights;
  NamedTensors state;  // as a checkpoint holds it
  std::vector<double> norms;
};

OptimizerConfig config_of(const Case& c) {
  OptimizerConfig config;
  config.clip_norm = 0;
  config.moments = c.moments;
  config.decay_norms_and_embeddings = c.all_decay;
  return config;
}

/// Sums all of a rank's parts of a step in c.passes backward passes. Parameters in pieces: each pass uses one twice.
void backpropagate(AdamW& optimizer, const std::vector<TrainedParameter>& parameters, const Case& c, int64_t rank,
                   int64_t step) {
  const int64_t parts = kParts / (c.ranks * c.passes);
  for (int64_t pass = 0; pass < c.passes; ++pass) {
    optimizer.begin_backward(pass + 1 == c.passes ? BackwardPass::last : BackwardPass::more_follow);
    at::Tensor loss = at::zeros({}, at::kDouble);
    for (const TrainedParameter& parameter : parameters) {
      at::Tensor gradient = at::zeros(parameter.value.sizes(), at::kDouble);
      for (int64_t i = 0; i < parts; ++i)
        gradient += gradient_of(parameter, step, (rank * c.passes + pass) * parts + i);
      // In step 3 nothing reaches layer 0's q_proj, on any rank.
      if (step == 3 && parameter.name.ends_with("q_proj.weight")) continue;
      const at::Tensor half = (gradient / 2).floor();
      loss = loss + (parameter.value * half.to(c.type)).sum().to(at::kDouble) +
             (parameter.value * (gradient - half).to(c.type)).sum().to(at::kDouble);
    }
    loss.backward();
  }
}

/// Puts a rank's pieces into the whole tensors.
void add_pieces(const std::vector<StatePiece>& pieces, NamedTensors& whole, std::map<std::string, int64_t>& counts) {
  for (const StatePiece& piece : pieces) {
    const int64_t numbers = c10::multiply_integers(piece.shape);
    counts[piece.parameter] += piece.count;
    for (const auto& [name, source] : piece.tensors) {
      const bool scales = name.find("_scale.") != std::string::npos;
      const std::vector<int64_t> shape = scales ? std::vector<int64_t>{(numbers + 255) / 256} : piece.shape;
      at::Tensor& target = whole[name];
      if (!target.defined()) target = at::zeros(shape, source.dtype);
      const at::Tensor part = source.make().reshape({-1});
      target.view({-1}).narrow(0, scales ? piece.first / 256 : piece.first, part.numel()).copy_(part);
    }
  }
}

Outcome train(const Case& c, int64_t steps, const std::function<void(AdamW&, int64_t rank)>& before = {}) {
  Outcome outcome;
  std::map<std::string, int64_t> counts;
  std::mutex mutex;
  run_ranks(c.ranks, [&](Communicator& ranks) {
    const std::vector<TrainedParameter> parameters = make_parameters(c.type);
    const GradientSum sum = c.passes > 1 ? GradientSum::fp32 : GradientSum::as_weights;
    AdamW optimizer(config_of(c), 5, parameters, sum, {&ranks, c.level, c.reduce, c.bucket_bytes});
    if (before) before(optimizer, ranks.rank());
    std::vector<double> norms;
    for (int64_t step = optimizer.updates() + 1; step <= steps; ++step) {
      backpropagate(optimizer, parameters, c, ranks.rank(), step);
      const at::Tensor numbers = optimizer.measure_gradients(at::full({2}, 1.0 + ranks.rank(), at::kDouble));
      DGA_CHECK(numbers[1].item<double>() == ranks.world_size() * (ranks.world_size() + 1) / 2, numbers);
      norms.push_back(numbers[2].item<double>());
      optimizer.update(1e-3);
      optimizer.wait_for_weights();
    }
    const std::lock_guard lock(mutex);
    add_pieces(optimizer.owned_pieces(optimizer.state()), outcome.state, counts);
    for (size_t i = 0; i < parameters.size(); ++i) {
      const at::Tensor weight = parameters[i].value.detach().clone();
      if (outcome.weights.size() == i) outcome.weights.push_back(weight);
      DGA_CHECK(at::equal(weight, outcome.weights[i]), "ranks have other weights of ", parameters[i].name);
    }
    outcome.norms = norms;
  });
  for (const TrainedParameter& parameter : make_parameters(c.type)) {
    EXPECT_EQ(counts[parameter.name], parameter.value.numel()) << parameter.name;
  }
  return outcome;
}

void expect_equal(const Outcome& actual, const Outcome& expected, const std::string& name) {
  ASSERT_EQ(actual.weights.size(), expected.weights.size());
  for (size_t i = 0; i < actual.weights.size(); ++i) {
    EXPECT_TRUE(at::equal(actual.weights[i], expected.weights[i])) << name << ", parameter " << i;
  }
  ASSERT_EQ(actual.state.size(), expected.state.size());
  for (const auto& [key, tensor] : expected.state) {
    EXPECT_TRUE(at::equal(actual.state.at(key), tensor)) << name << ", " << key;
  }
  for (size_t i = 0; i < actual.norms.size(); ++i) EXPECT_NEAR(actual.norms[i] / expected.norms[i], 1, 1e-6) << name;
}

constexpr ShardLevel kLevels[] = {ShardLevel::none, ShardLevel::optimizer, ShardLevel::optimizer_gradients};
constexpr int64_t kSteps = 4;

TEST(DataParallel, DoesWhatOneRankDoesAtEveryLevelAndBucketSize) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const Outcome expected = train({.type = type}, kSteps);
    for (const ShardLevel level : kLevels) {
      for (const int64_t ranks : {1, 2, 3, 4}) {
        for (const int64_t passes : {1, 3}) {
          for (const int64_t bucket_bytes : {1, 2048, 8192, 1 << 20}) {
            const Case c{ranks, passes, level, ReduceType::fp32, bucket_bytes, type};
            expect_equal(train(c, kSteps), expected, c.name());
          }
        }
      }
    }
  }
}

TEST(DataParallel, ReducesInBfloat16) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const Outcome expected = train({.type = type}, kSteps);
    for (const ShardLevel level : kLevels) {
      for (const int64_t passes : {1, 2}) {
        const Case c{2, passes, level, ReduceType::bf16, 4096, type};
        expect_equal(train(c, kSteps), expected, c.name());
      }
    }
  }
}

TEST(DataParallel, RoundsNarrowMomentsAsOneRankDoes) {
  for (const MomentsKind moments : {MomentsKind::bf16, MomentsKind::int8}) {
    for (const bool all_decay : {false, true}) {
      Case c{.type = at::kBFloat16, .moments = moments, .all_decay = all_decay};
      const Outcome expected = train(c, kSteps);
      for (c.level = ShardLevel::none; const ShardLevel level : kLevels) {
        for (c.ranks = 2; c.ranks <= 3; ++c.ranks) {
          c.level = level;
          expect_equal(train(c, kSteps), expected, c.name());
        }
      }
    }
  }
}

TEST(DataParallel, StateGoesFromAnyNumberOfRanksToAnyOther) {
  for (const MomentsKind moments : {MomentsKind::fp32, MomentsKind::int8}) {
    Case from{.type = at::kBFloat16, .moments = moments};
    const Outcome expected = train(from, kSteps);
    for (const ShardLevel level : kLevels) {
      from.level = level;
      from.ranks = 3;
      const Outcome halfway = train(from, 2);
      for (const Case& to : {Case{1}, Case{2, 1, ShardLevel::optimizer}, Case{4, 1, ShardLevel::none},
                             Case{4, 3, ShardLevel::optimizer_gradients}}) {
        Case c = to;
        c.type = from.type;
        c.moments = moments;
        Outcome outcome =
            train(c, kSteps, [&](AdamW& optimizer, int64_t) { optimizer.restore(as_saved(halfway.state), 2); });
        outcome.norms.insert(outcome.norms.begin(), halfway.norms.begin(), halfway.norms.end());
        expect_equal(outcome, expected, c.name());
      }
    }
  }
}

TEST(DataParallel, RanksHoldTheirShareOfStateAndGradients) {
  for (const ShardLevel level : kLevels) {
    run_ranks(4, [&](Communicator& ranks) {
      const std::vector<TrainedParameter> parameters = make_parameters(at::kBFloat16);
      const AdamW optimizer(OptimizerConfig(), 1, parameters, GradientSum::as_weights,
                            {&ranks, level, ReduceType::bf16, 1 << 20});
      const int64_t held = level == ShardLevel::none ? optimizer.layout().size : optimizer.layout().size / 4;
      DGA_CHECK(optimizer.state().exp_avg.numbers.numel() == held, held);
      DGA_CHECK(optimizer.state().weight_low.numel() == held, held);
      DGA_CHECK(optimizer.gradient(0).defined() == (level != ShardLevel::optimizer_gradients), "gradient");
    });
  }
}

TEST(DataParallel, OneRanksBadNumberStopsAllOfThem) {
  for (const ShardLevel level : kLevels) {
    for (const bool in_gradient : {true, false}) {
      run_ranks(3, [&](Communicator& ranks) {
        const std::vector<TrainedParameter> parameters = make_parameters(at::kFloat);
        AdamW optimizer(OptimizerConfig(), 1, parameters, GradientSum::as_weights,
                        {&ranks, level, ReduceType::fp32, 4096});
        const double nan = std::numeric_limits<double>::quiet_NaN();
        const auto step = [&](double gradient, double loss) {
          optimizer.begin_backward(BackwardPass::last);
          (parameters[2].value * (ranks.rank() == 1 ? gradient : 1.0)).sum().backward();
          optimizer.measure_gradients(at::full({1}, ranks.rank() == 1 ? loss : 1.0, at::kDouble));
          optimizer.update(0.1);
          optimizer.wait_for_weights();
        };
        step(1, 1);
        const at::Tensor before = parameters[2].value.detach().clone();
        step(in_gradient ? nan : 1, in_gradient ? 1 : nan);
        step(1, 1);
        DGA_CHECK(at::equal(parameters[2].value, before), "weights have changed");
      });
    }
  }
}

}  // namespace
}  // namespace dga

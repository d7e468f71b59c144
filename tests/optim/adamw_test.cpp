#include "optim/adamw.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "util/error.h"

namespace dga {
namespace {

OptimizerConfig make_config(MomentsKind moments = MomentsKind::fp32) {
  OptimizerConfig config;
  config.betas = {0.9, 0.95};
  config.epsilon = 1e-8;
  config.weight_decay = 0.1;
  config.clip_norm = 0;
  config.moments = moments;
  return config;
}

at::Tensor parameter(const std::vector<double>& values, at::ScalarType type = at::kFloat) {
  const auto columns = static_cast<int64_t>(values.size());
  return at::tensor(values, at::kDouble).to(type).reshape({1, columns}).requires_grad_();
}

/// A backward pass whose gradient is `values`.
void backpropagate(const at::Tensor& parameter, const at::Tensor& values) {
  (parameter * values.to(parameter.scalar_type()).view(parameter.sizes())).sum().backward();
}
void backpropagate(const at::Tensor& parameter, const std::vector<double>& values) {
  backpropagate(parameter, at::tensor(values, at::kDouble));
}

/// Clips and updates; returns the norm.
double update(AdamW& optimizer, double rate, double loss = 1.0) {
  const at::Tensor numbers = optimizer.measure_gradients(at::full({1}, loss, at::kDouble));
  optimizer.update(rate);
  return numbers[1].item<double>();
}

NamedTensors saved_state(const AdamW& optimizer) {
  NamedTensors saved;
  for (const StatePiece& piece : optimizer.owned_pieces(optimizer.state())) {
    EXPECT_EQ(piece.count, c10::multiply_integers(piece.shape));
    for (const auto& [name, source] : piece.tensors) saved[name] = source.make().clone();
  }
  return saved;
}

/// Loshchilov and Hutter's Algorithm 2 for one number.
struct ScalarAdamW {
  double weight, m = 0, v = 0;
  int step = 0;
  void update(double gradient, double rate, const OptimizerConfig& config, double decay) {
    ++step;
    weight -= rate * decay * weight;
    m = config.betas[0] * m + (1 - config.betas[0]) * gradient;
    v = config.betas[1] * v + (1 - config.betas[1]) * gradient * gradient;
    const double m_hat = m / (1 - std::pow(config.betas[0], step));
    const double v_hat = v / (1 - std::pow(config.betas[1], step));
    weight -= rate * m_hat / (std::sqrt(v_hat) + config.epsilon);
  }
};

TEST(AdamW, EqualsTheFormulaOverSteps) {
  const OptimizerConfig config = make_config();
  const at::Tensor weight = parameter({1.0, -2.0, 0.5}, at::kDouble);
  AdamW optimizer(config, 1, {{"model.layers.0.mlp.up_proj.weight", weight}}, GradientSum::as_weights);
  std::vector<ScalarAdamW> expected = {{1.0}, {-2.0}, {0.5}};
  for (int step = 1; step <= 20; ++step) {
    const std::vector<double> gradient = {0.1 * step, std::sin(step), 2.0 - step};
    const double rate = 0.1 / step;
    backpropagate(weight, gradient);
    update(optimizer, rate);
    for (int i = 0; i < 3; ++i) {
      expected[i].update(gradient[i], rate, config, config.weight_decay);
      EXPECT_LE(std::abs(weight[0][i].item<double>() - expected[i].weight), 1e-13) << step << " " << i;
    }
  }
  EXPECT_EQ(optimizer.updates(), 20);
}

// torch.optim.AdamW(lr=0.1/s, betas=(.9,.95), eps=1e-8, weight_decay=.1) of PyTorch 2.11 after clip_grad_norm_(1.0),
// fp32, gradient of step s: [0.1 s, -0.3, 2 - s].
TEST(AdamW, EqualsPyTorchWithClipping) {
  const double weights[5][3] = {{0.8899999856948853, -1.8799999952316284, 0.39500001072883606},
                                {0.8379251956939697, -1.8205820322036743, 0.3590926229953766},
                                {0.8034690618515015, -1.7812224626541138, 0.3602806329727173},
                                {0.7774085998535156, -1.7528493404388428, 0.36910298466682434},
                                {0.7566187977790833, -1.7312144041061401, 0.37955185770988464}};
  const double norms[5] = {1.0488088130950928, 0.36055514216423035, 1.0862780809402466, 2.0615527629852295,
                           3.0561413764953613};
  const at::Tensor weight = parameter({1.0, -2.0, 0.5});
  OptimizerConfig config = make_config();
  config.clip_norm = 1.0;
  AdamW optimizer(config, 1, {{"lm_head.weight", weight}}, GradientSum::as_weights);
  for (int step = 1; step <= 5; ++step) {
    backpropagate(weight, {0.1 * step, -0.3, 2.0 - step});
    EXPECT_NEAR(update(optimizer, 0.1 / step), norms[step - 1], 1e-6);
    for (int i = 0; i < 3; ++i) EXPECT_NEAR(weight[0][i].item<double>(), weights[step - 1][i], 1e-6) << step;
  }
}

TEST(AdamW, DecayLeavesNormsAndEmbeddingsAlone) {
  OptimizerConfig config = make_config();
  const TrainedParameter norm{"model.norm.weight", at::ones({4}).requires_grad_()};
  const TrainedParameter embedding{"model.embed_tokens.weight", at::ones({2, 4}).requires_grad_()};
  const TrainedParameter head{"lm_head.weight", at::ones({2, 4}).requires_grad_()};
  const TrainedParameter query{"model.layers.3.self_attn.q_proj.weight", at::ones({2, 4}).requires_grad_()};
  EXPECT_FALSE(is_decayed(config, norm));
  EXPECT_FALSE(is_decayed(config, embedding));
  EXPECT_TRUE(is_decayed(config, head));
  EXPECT_TRUE(is_decayed(config, query));

  AdamW optimizer(config, 1, {norm, embedding, head, query}, GradientSum::as_weights);
  update(optimizer, 0.5);  // without a gradient only decay moves a weight
  EXPECT_EQ(norm.value.min().item<float>(), 1.0F);
  EXPECT_EQ(embedding.value.min().item<float>(), 1.0F);
  EXPECT_FLOAT_EQ(head.value.max().item<float>(), 0.95F);
  EXPECT_FLOAT_EQ(query.value.max().item<float>(), 0.95F);

  config.decay_norms_and_embeddings = true;
  EXPECT_TRUE(is_decayed(config, norm));
  EXPECT_TRUE(is_decayed(config, embedding));
}

TEST(AdamW, GradientsAddUpAndEmptyAfterTheUpdate) {
  const at::Tensor split = parameter({1.0, 2.0}), whole = parameter({1.0, 2.0});
  AdamW in_parts(make_config(), 1, {{"a.weight", split}}, GradientSum::fp32);
  AdamW at_once(make_config(), 1, {{"a.weight", whole}}, GradientSum::fp32);
  for (int step = 0; step < 3; ++step) {
    for (const std::vector<double>& part : {std::vector<double>{0.5, -1.0}, {0.25, 0.5}, {-2.0, 1.0}}) {
      backpropagate(split, part);
      EXPECT_FALSE(split.grad().defined());
    }
    backpropagate(whole, {-1.25, 0.5});
    EXPECT_DOUBLE_EQ(update(in_parts, 0.1), update(at_once, 0.1));
    EXPECT_EQ(in_parts.measure_gradients(at::zeros({1}, at::kDouble))[1].item<double>(), 0.0);
    EXPECT_TRUE(at::equal(split, whole));
  }
}

TEST(AdamW, Bfloat16GradientsAddUpInSinglePrecision) {
  const at::Tensor weight = parameter({1.0}, at::kBFloat16);
  AdamW optimizer(make_config(), 1, {{"a.weight", weight}}, GradientSum::fp32);
  backpropagate(weight, std::vector<double>{256.0});
  for (int i = 0; i < 64; ++i) backpropagate(weight, std::vector<double>{1.0});  // 256 + 1 is 256 in bf16
  EXPECT_EQ(optimizer.gradient(0).item<float>(), 320.0F);
  EXPECT_EQ(update(optimizer, 0.1), 320.0);
}

// The whole point of masters: bf16 weights with split masters go exactly where fp32 weights go, with updates that are
// a thousandth of bf16's spacing, in both directions, over hundreds of steps.
TEST(AdamW, SplitMastersGoWhereSinglePrecisionGoes) {
  at::manual_seed(3);
  const int64_t count = 3000;
  const at::Tensor start = at::randn({3, count / 3}).to(at::kBFloat16);
  const at::Tensor weight = start.clone().requires_grad_(), exact = start.to(at::kFloat).requires_grad_();
  AdamW optimizer(make_config(), 1, {{"a.weight", weight}}, GradientSum::as_weights);
  AdamW reference(make_config(), 1, {{"a.weight", exact}}, GradientSum::as_weights);
  for (int step = 0; step < 300; ++step) {
    const at::Tensor gradient = (at::randn({3, count / 3}) * 0.01).to(at::kBFloat16);
    backpropagate(weight, gradient);
    backpropagate(exact, gradient.to(at::kFloat));
    update(optimizer, 2e-6);
    update(reference, 2e-6);
    ASSERT_TRUE(at::equal(saved_state(optimizer).at("master.a.weight"), exact.detach())) << "step " << step;
  }
  EXPECT_TRUE(at::equal(optimizer.state().exp_avg_sq.numbers, reference.state().exp_avg_sq.numbers));
  const at::Tensor moved = (exact.detach() - start.to(at::kFloat)).abs();
  EXPECT_GT(moved.mean().item<float>(), 1e-5F);
  EXPECT_LT((2e-6 / start.to(at::kFloat).abs()).median().item<float>(), 1.0 / 1024);  // far below a bf16 step of 2^-8
  // The weight that the model sees is the nearest bf16; where it is not the even one, the master is halfway.
  const at::Tensor nearest = exact.detach().to(at::kBFloat16);
  const at::Tensor differs = nearest.ne(weight.detach());
  const at::Tensor off = (weight.detach().to(at::kFloat) - exact.detach()).abs();
  const at::Tensor off_nearest = (nearest.to(at::kFloat) - exact.detach()).abs();
  EXPECT_TRUE(at::equal(off.masked_select(differs), off_nearest.masked_select(differs)));
}

TEST(AdamW, NonFiniteNumbersStopEveryLaterUpdate) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  for (const auto& [gradient, loss] : {std::pair(nan, 1.0), {inf, 1.0}, {0.5, nan}, {0.5, inf}}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const at::Tensor weight = parameter({1.0, -2.0}, type);
      AdamW optimizer(make_config(), 1, {{"a.weight", weight}}, GradientSum::as_weights);
      backpropagate(weight, {0.5, 0.5});
      update(optimizer, 0.1);
      const at::Tensor before = weight.detach().clone();
      const NamedTensors state = saved_state(optimizer);
      EXPECT_NE(before[0][0].item<float>(), 1.0F);
      backpropagate(weight, {gradient, 0.5});
      update(optimizer, 0.1, loss);
      backpropagate(weight, {0.5, 0.5});
      update(optimizer, 0.1);
      EXPECT_TRUE(at::equal(weight.detach(), before)) << gradient << " " << loss << " " << type;
      for (const auto& [name, tensor] : saved_state(optimizer)) EXPECT_TRUE(at::equal(tensor, state.at(name))) << name;
    }
  }
}

TEST(AdamW, NarrowMomentsStayCloseToWideOnes) {
  at::manual_seed(5);
  // Gradients of 0.3 +- 1 times a size that differs between weights by factors of 20 and more.
  const at::Tensor start = at::randn({64, 100}) * 0.02, scale = at::exp(at::randn({64, 100}));
  const auto train = [&](MomentsKind moments, uint64_t seed) {
    const at::Tensor weight = start.clone().requires_grad_();
    OptimizerConfig config = make_config(moments);
    config.weight_decay = 0;
    AdamW optimizer(config, seed, {{"a.weight", weight}}, GradientSum::as_weights);
    at::manual_seed(7);
    for (int step = 0; step < 100; ++step) {
      backpropagate(weight, (at::randn({64, 100}) + 0.3) * scale);
      update(optimizer, 1e-3);
    }
    return weight.detach() - start;
  };
  const at::Tensor wide = train(MomentsKind::fp32, 1);
  const double distance = wide.norm().item<double>(), mean = std::abs(wide.mean().item<double>());
  EXPECT_GT(mean, 0.02);
  for (const auto& [moments, error] : {std::pair(MomentsKind::bf16, 0.005), {MomentsKind::int8, 0.05}}) {
    const at::Tensor off = train(moments, 1) - wide;
    EXPECT_LE(off.norm().item<double>(), error * distance) << error;
    // The errors of 6,400 weights have no common sign: their mean is that of independent ones.
    EXPECT_LE(std::abs(off.mean().item<double>()), 0.1 * error * mean) << error;
  }
  EXPECT_FALSE(at::equal(train(MomentsKind::int8, 1), train(MomentsKind::int8, 2)));
}

TEST(AdamW, RestoredStateGoesOnWithTheSameBits) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const MomentsKind moments : {MomentsKind::fp32, MomentsKind::bf16, MomentsKind::int8}) {
      at::manual_seed(11);
      const at::Tensor start = at::randn({20, 30}).to(type), norm_start = at::ones({30}).to(type);
      const at::Tensor weight = start.clone().requires_grad_(), norm = norm_start.clone().requires_grad_();
      AdamW optimizer(make_config(moments), 9, {{"norm.weight", norm}, {"a.weight", weight}}, GradientSum::as_weights);
      const auto train = [](AdamW& which, const at::Tensor& a, const at::Tensor& b, int step) {
        at::manual_seed(100 + step);
        backpropagate(a, at::randn({20, 30}));
        backpropagate(b, at::randn({30}));
        update(which, 0.01);
      };
      for (int step = 1; step <= 3; ++step) train(optimizer, weight, norm, step);
      const NamedTensors saved = saved_state(optimizer);
      const at::Tensor resumed = weight.detach().clone().requires_grad_();
      const at::Tensor resumed_norm = norm.detach().clone().requires_grad_();
      AdamW other(make_config(moments), 9, {{"norm.weight", resumed_norm}, {"a.weight", resumed}},
                  GradientSum::as_weights);
      other.restore(as_saved(saved), optimizer.updates());
      for (int step = 4; step <= 7; ++step) {
        train(optimizer, weight, norm, step);
        train(other, resumed, resumed_norm, step);
        EXPECT_TRUE(at::equal(weight, resumed)) << step;
      }
      const NamedTensors after = saved_state(other);
      for (const auto& [name, tensor] : saved_state(optimizer)) EXPECT_TRUE(at::equal(tensor, after.at(name))) << name;
    }
  }
}

TEST(AdamW, TakesOverMastersOfAnyRounding) {
  const at::Tensor weight = parameter({1.0, 1.0}, at::kBFloat16);
  AdamW optimizer(make_config(), 1, {{"a.weight", weight}}, GradientSum::as_weights);
  NamedTensors saved = saved_state(optimizer);
  saved["master.a.weight"] = at::tensor({1.0 + 1.0 / 256, 1.25 + 1e-6}, at::kFloat).view({1, 2});  // halfway; near
  optimizer.restore(as_saved(saved), 3);
  EXPECT_TRUE(at::equal(saved_state(optimizer).at("master.a.weight"), saved.at("master.a.weight")));
  EXPECT_EQ(weight[0][0].item<float>(), 1.0F + 1.0F / 128);
  EXPECT_EQ(weight[0][1].item<float>(), 1.25F);
}

TEST(AdamW, RestoreNamesWhatIsWrong) {
  AdamW optimizer(make_config(), 1, {{"a.weight", parameter({1.0, 2.0})}}, GradientSum::as_weights);
  const auto message = [&](const NamedTensors& saved) -> std::string {
    try {
      optimizer.restore(as_saved(saved), 1);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::input);
      return error.what();
    }
    return "accepted";
  };
  NamedTensors state = saved_state(optimizer);
  state["exp_avg.a.weight"] = at::zeros({3});
  EXPECT_NE(message(state).find("exp_avg.a.weight has shape [3]"), std::string::npos) << message(state);
  state["exp_avg.a.weight"] = at::zeros({1, 2}, at::kBFloat16);
  EXPECT_NE(message(state).find("is of type BF16, optimizer.moments asks for F32"), std::string::npos)
      << message(state);
  state.erase("exp_avg.a.weight");
  EXPECT_NE(message(state).find("exp_avg.a.weight"), std::string::npos) << message(state);
}

}  // namespace
}  // namespace dga

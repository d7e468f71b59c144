#include "optim/adamw.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "optim/gradients.h"
#include "util/error.h"

namespace dga {
namespace {

OptimizerConfig make_config() {
  OptimizerConfig config;
  config.betas = {0.9, 0.95};
  config.epsilon = 1e-8;
  config.weight_decay = 0.1;
  return config;
}

at::Tensor parameter(const std::vector<double>& values, at::ScalarType type = at::kFloat) {
  const auto columns = static_cast<int64_t>(values.size());
  return at::tensor(values, at::kDouble).to(type).reshape({1, columns}).requires_grad_();
}

void set_gradient(const at::Tensor& parameter, const std::vector<double>& values) {
  parameter.mutable_grad() = at::tensor(values, at::kDouble).to(parameter.scalar_type()).reshape(parameter.sizes());
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
  AdamW optimizer(config, {{"model.layers.0.mlp.up_proj.weight", weight}});
  std::vector<ScalarAdamW> expected = {{1.0}, {-2.0}, {0.5}};
  for (int step = 1; step <= 20; ++step) {
    const std::vector<double> gradient = {0.1 * step, std::sin(step), 2.0 - step};
    const double rate = 0.1 / step;
    set_gradient(weight, gradient);
    optimizer.accumulate_gradients();
    optimizer.update(rate, 1.0);
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
  AdamW optimizer(make_config(), {{"lm_head.weight", weight}});
  for (int step = 1; step <= 5; ++step) {
    set_gradient(weight, {0.1 * step, -0.3, 2.0 - step});
    optimizer.accumulate_gradients();
    const double norm = optimizer.gradient_norm();
    EXPECT_NEAR(norm, norms[step - 1], 1e-6);
    optimizer.update(0.1 / step, clip_factor(norm, 1.0));
    for (int i = 0; i < 3; ++i) EXPECT_NEAR(weight[0][i].item<double>(), weights[step - 1][i], 1e-6) << step;
  }
}

TEST(AdamW, DecayLeavesNormsAndEmbeddingsAlone) {
  OptimizerConfig config = make_config();
  const TrainedParameter norm{"model.norm.weight", at::ones({4})};
  const TrainedParameter embedding{"model.embed_tokens.weight", at::ones({2, 4})};
  const TrainedParameter head{"lm_head.weight", at::ones({2, 4})};
  const TrainedParameter query{"model.layers.3.self_attn.q_proj.weight", at::ones({2, 4})};
  EXPECT_FALSE(is_decayed(config, norm));
  EXPECT_FALSE(is_decayed(config, embedding));
  EXPECT_TRUE(is_decayed(config, head));
  EXPECT_TRUE(is_decayed(config, query));

  AdamW optimizer(config, {norm, embedding, head, query});
  for (const TrainedParameter& parameter : {norm, embedding, head, query}) {
    parameter.value.mutable_grad() = at::zeros_like(parameter.value);
  }
  optimizer.accumulate_gradients();
  optimizer.update(0.5, 1.0);  // without a gradient only decay moves a weight
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
  AdamW in_parts(make_config(), {{"a.weight", split}}), at_once(make_config(), {{"a.weight", whole}});
  for (int step = 0; step < 3; ++step) {
    for (const std::vector<double>& part : {std::vector<double>{0.5, -1.0}, {0.25, 0.5}, {-2.0, 1.0}}) {
      set_gradient(split, part);
      in_parts.accumulate_gradients();
      EXPECT_FALSE(split.grad().defined());
    }
    set_gradient(whole, {-1.25, 0.5});
    at_once.accumulate_gradients();
    EXPECT_DOUBLE_EQ(in_parts.gradient_norm(), at_once.gradient_norm());
    in_parts.update(0.1, 1.0);
    at_once.update(0.1, 1.0);
    EXPECT_EQ(in_parts.gradient_norm(), 0.0);
    EXPECT_TRUE(at::equal(split, whole));
  }
}

TEST(AdamW, Bfloat16KeepsUpdatesThatItsOwnRoundingWouldLose) {
  OptimizerConfig config = make_config();
  config.weight_decay = 0;
  const at::Tensor weight = parameter({1.0, 1.0}, at::kBFloat16), exact = parameter({1.0, 1.0});
  AdamW optimizer(config, {{"a.weight", weight}}), reference(config, {{"a.weight", exact}});
  for (int step = 0; step < 100; ++step) {  // each update is 1e-4, a fortieth of bf16's spacing below 1
    for (const at::Tensor& tensor : {weight, exact}) set_gradient(tensor, {1.0, -1.0});
    optimizer.accumulate_gradients();
    reference.accumulate_gradients();
    optimizer.update(1e-4, 1.0);
    reference.update(1e-4, 1.0);
  }
  EXPECT_TRUE(at::equal(optimizer.state().at("master.a.weight"), exact.detach()));
  EXPECT_TRUE(at::equal(weight, exact.to(at::kBFloat16)));
  EXPECT_NE(weight[0][0].item<float>(), 1.0F);
}

TEST(AdamW, Bfloat16GradientsAddUpInSinglePrecision) {
  const at::Tensor weight = parameter({1.0}, at::kBFloat16);
  AdamW optimizer(make_config(), {{"a.weight", weight}});
  set_gradient(weight, {256.0});
  optimizer.accumulate_gradients();
  for (int i = 0; i < 64; ++i) {  // 256 + 1 rounds back to 256 in bf16
    set_gradient(weight, {1.0});
    optimizer.accumulate_gradients();
  }
  EXPECT_EQ(optimizer.gradient_norm(), 320.0);
}

TEST(AdamW, RestoredStateGoesOnWithTheSameBits) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor weight = parameter({1.0, -0.5}, type);
    AdamW optimizer(make_config(), {{"a.weight", weight}});
    const auto train = [](AdamW& which, const at::Tensor& tensor, int step) {
      set_gradient(tensor, {0.3 * step, -1.0 / step});
      which.accumulate_gradients();
      which.update(0.01, 0.7);
    };
    for (int step = 1; step <= 3; ++step) train(optimizer, weight, step);
    std::map<std::string, at::Tensor> saved;
    for (const auto& [name, tensor] : optimizer.state()) saved[name] = tensor.clone();
    const at::Tensor resumed = weight.detach().clone().requires_grad_();
    AdamW other(make_config(), {{"a.weight", resumed}});
    other.restore(saved, optimizer.updates());
    for (int step = 4; step <= 7; ++step) {
      train(optimizer, weight, step);
      train(other, resumed, step);
      EXPECT_TRUE(at::equal(weight, resumed)) << step;
    }
    for (const auto& [name, tensor] : optimizer.state()) EXPECT_TRUE(at::equal(tensor, other.state().at(name)));
  }
}

TEST(AdamW, RestoreNamesWhatIsWrong) {
  AdamW optimizer(make_config(), {{"a.weight", parameter({1.0, 2.0})}});
  std::map<std::string, at::Tensor> state = optimizer.state();
  state["exp_avg.a.weight"] = at::zeros({3});
  EXPECT_THROW(optimizer.restore(state, 1), Error);
  state.erase("exp_avg.a.weight");
  try {
    optimizer.restore(state, 1);
    FAIL() << "a missing tensor was accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("exp_avg.a.weight"), std::string::npos) << error.what();
    EXPECT_EQ(error.code(), ExitCode::input);
  }
}

}  // namespace
}  // namespace dga
